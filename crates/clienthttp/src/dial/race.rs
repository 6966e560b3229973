//! A connection to whichever address of a peer answers first (RFC 8305).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use peerage_discovery::Endpoint;
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// How much of a start an address gets over the next one (B-6).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the addresses in their order, each with a head start over the next one. A failure starts
/// the next one at once; the first connection wins and the other attempts are given up.
///
/// # Cancel safety
///
/// Dropping the future gives up all attempts.
pub(super) async fn connect(addresses: &[Endpoint]) -> io::Result<TcpStream> {
    if let [Endpoint::Ip(address)] = addresses {
        return TcpStream::connect(address).await;
    }
    let mut waiting = resolve(addresses).await?.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        let next = waiting.next();
        let may_follow = next.is_some();
        running.extend(next.map(TcpStream::connect));
        loop {
            let ended = if may_follow {
                match timeout(HEAD_START, running.next()).await {
                    Ok(ended) => ended,
                    // Its start is over; it runs on beside the next one.
                    Err(_) => break,
                }
            } else {
                running.next().await
            };
            match ended {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => {
                    last = error;
                    if may_follow {
                        break;
                    }
                }
                None => return Err(last),
            }
        }
    }
}

/// All socket addresses of the endpoints, in their order.
async fn resolve(endpoints: &[Endpoint]) -> io::Result<Vec<SocketAddr>> {
    let mut all = Vec::with_capacity(endpoints.len());
    let mut failed = None;
    for endpoint in endpoints {
        match endpoint {
            Endpoint::Ip(address) => all.push(*address),
            // Whatever a resolver says (RFC 6761 §6.3, S-008).
            Endpoint::Name { host, port } if &**host == "localhost" => {
                all.push((Ipv4Addr::LOCALHOST, *port).into());
                all.push((Ipv6Addr::LOCALHOST, *port).into());
            }
            Endpoint::Name { host, port } => match lookup_host((&**host, *port)).await {
                Ok(found) => all.extend(interleaved(found)),
                Err(error) => failed = Some(error),
            },
        }
    }
    match failed {
        Some(error) if all.is_empty() => Err(error),
        _ => Ok(all),
    }
}

/// The addresses of one name, families in turn, IPv6 first.
fn interleaved(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.partition(|address| matches!(address.ip(), IpAddr::V6(_)));
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(six.next());
        all.extend(four.next());
        if all.len() == before {
            return all;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use peerage_tests::{BlackHole, Refuser};
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn families_are_tried_in_turn() {
        let all =
            ["1.1.1.1:1", "1.1.1.2:1", "[::1]:1", "1.1.1.3:1", "[::2]:1"].map(|text| text.parse().unwrap());
        let expected = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "1.1.1.2:1", "1.1.1.3:1"];
        assert_eq!(interleaved(all.into_iter()), expected.map(|text| text.parse::<SocketAddr>().unwrap()));
    }

    #[tokio::test]
    async fn a_refused_address_costs_no_wait_and_a_silent_one_its_head_start() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let good = Endpoint::Ip(listener.local_addr().unwrap());
        let refuser = Refuser::new();
        let refused = Endpoint::Ip(refuser.addr());
        let hole = BlackHole::new();
        let silent = Endpoint::Ip(hole.addr());

        for (addresses, least, most) in [
            (vec![good.clone()], 0, 200),
            (vec![refused.clone(), refused.clone(), good.clone()], 0, 200),
            (vec![silent.clone(), refused.clone(), good.clone()], 250, 600),
            (vec![silent.clone(), silent, good], 500, 900),
        ] {
            let began = Instant::now();
            let stream = connect(&addresses).await.unwrap();
            let took = began.elapsed().as_millis();
            assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
            assert!((least..most).contains(&took), "{addresses:?}: {took} ms");
        }
        let error = connect(&[refused.clone(), refused]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn s008_localhost_is_not_asked_of_a_resolver() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = Endpoint::name("localhost", listener.local_addr().unwrap().port()).unwrap();
        let stream = connect(&[name]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), listener.local_addr().unwrap());
        assert!(connect(&[]).await.is_err());
    }
}
