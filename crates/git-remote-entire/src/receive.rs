//! A request to receive-pack, from whoever sends one into a body to post (helper spec §7.1, §8.3).

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::agent::Identity;
use crate::pktline::{self, Kind, PacketError};
use crate::spool::Spool;

/// Why a request could not be put aside.
#[derive(Debug)]
pub(crate) enum ReceiveError {
    Packet(PacketError),
    Spool(std::io::Error),
}

impl From<PacketError> for ReceiveError {
    fn from(error: PacketError) -> Self {
        Self::Packet(error)
    }
}

/// What follows the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// A pack to the end of input, if a command needs one. After a delete-only request the input stays open.
    IfNeeded,
    /// Everything to the end of input: somebody else knows where the request ends.
    ToTheEnd,
}

/// Reads a request into `body`, with the identity added. `false` if nothing is asked: the input
/// ends before its first byte, or there is no command before the flush.
pub(crate) async fn read_request<R>(
    input: &mut R,
    body: &mut Spool,
    identity: &Identity,
    rest: Rest,
) -> Result<bool, ReceiveError>
where
    R: AsyncBufRead + Unpin + ?Sized,
{
    let mut commands = Commands::default();
    let mut packet = Vec::new();
    let mut first = true;
    loop {
        match pktline::read(input, &mut packet).await? {
            None if first => return Ok(false),
            None => return Err(PacketError::CutLength.into()),
            Some(Kind::Data) => {
                let payload = pktline::payload(&packet);
                commands.see(payload);
                match identity.amend_command(payload).filter(|_| !commands.amended) {
                    Some(payload) => {
                        let mut amended = Vec::new();
                        pktline::put(&mut amended, &payload)?;
                        put(body, &amended)?;
                    }
                    None => put(body, &packet)?,
                }
                commands.amended |= payload.contains(&0);
            }
            Some(kind) => {
                put(body, &packet)?;
                if kind == Kind::Flush {
                    break;
                }
            }
        }
        first = false;
    }
    if rest == Rest::IfNeeded {
        if first {
            // A flush and nothing before it: Git found everything up to date.
            return Ok(false);
        }
        if commands.push_options {
            // The section belongs to the request also where nothing follows it.
            loop {
                match pktline::read(input, &mut packet).await? {
                    None => return Err(PacketError::CutLength.into()),
                    Some(kind) => {
                        put(body, &packet)?;
                        if kind == Kind::Flush {
                            break;
                        }
                    }
                }
            }
        }
        if !commands.need_pack {
            return Ok(true);
        }
    }
    loop {
        let ready = input.fill_buf().await.map_err(|source| PacketError::Read { source })?;
        if ready.is_empty() {
            return Ok(true);
        }
        put(body, ready)?;
        let len = ready.len();
        input.consume(len);
    }
}

fn put(body: &mut Spool, bytes: &[u8]) -> Result<(), ReceiveError> {
    body.put(bytes).map_err(ReceiveError::Spool)
}

/// What the lines of a request have said so far.
#[derive(Default)]
struct Commands {
    need_pack: bool,
    push_options: bool,
    /// A line with capabilities has passed: no later one is amended.
    amended: bool,
    capabilities_seen: bool,
    certificate: Certificate,
}

#[derive(Default, PartialEq, Eq)]
enum Certificate {
    #[default]
    No,
    /// Between `push-cert` and the blank line: who pushes where.
    Head,
    /// The commands.
    Commands,
    /// From the signature on.
    Signature,
}

impl Commands {
    fn see(&mut self, payload: &[u8]) {
        let mut line = payload;
        if let Some(nul) = payload.iter().position(|byte| *byte == 0) {
            let (head, capabilities) = payload.split_at(nul);
            line = head;
            if !std::mem::replace(&mut self.capabilities_seen, true) {
                let capabilities = capabilities.get(1..).unwrap_or_default().trim_ascii_end();
                self.push_options =
                    capabilities.split(|byte| *byte == b' ').any(|word| word == b"push-options");
            }
        }
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        self.certificate = match std::mem::take(&mut self.certificate) {
            Certificate::No if line == b"push-cert" => Certificate::Head,
            Certificate::Head if line.is_empty() => Certificate::Commands,
            Certificate::Commands if line.starts_with(b"-----BEGIN") => Certificate::Signature,
            Certificate::Head | Certificate::Commands | Certificate::Signature
                if line == b"push-cert-end" =>
            {
                Certificate::No
            }
            same => same,
        };
        if matches!(self.certificate, Certificate::No | Certificate::Commands) {
            self.need_pack |= needs_pack(line);
        }
    }
}

/// Whether `<old> <new> <ref>` asks for objects. What has another shape does not.
fn needs_pack(line: &[u8]) -> bool {
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let (Some(old), Some(new), Some(name)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let is_oid = |text: &[u8]| matches!(text.len(), 40 | 64) && text.iter().all(u8::is_ascii_hexdigit);
    is_oid(old) && is_oid(new) && !name.is_empty() && new.iter().any(|digit| *digit != b'0')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outer::Unwrapped;
    use tokio::io::AsyncReadExt;

    fn identity() -> Identity {
        Identity { text: "ID".to_owned(), v2_separator: ' ' }
    }

    fn packets(lines: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for line in lines {
            match *line {
                "0000" => out.extend_from_slice(line.as_bytes()),
                line => pktline::put(&mut out, line.as_bytes()).unwrap(),
            }
        }
        out
    }

    fn command(new: char, digits: usize, name: &str) -> String {
        format!("{} {} {name}", "a".repeat(digits), new.to_string().repeat(digits))
    }

    /// The body that was read, and what is left of the input.
    async fn read(input: &[u8]) -> (Result<bool, ReceiveError>, Vec<u8>, Vec<u8>) {
        let (mut rest, mut body) = (input, Spool::new(None));
        let result = read_request(&mut rest, &mut body, &identity(), Rest::IfNeeded).await;
        (result, body.finish().unwrap().in_memory().unwrap().to_vec(), rest.to_vec())
    }

    #[tokio::test]
    async fn a_request_ends_where_its_commands_say() {
        for (row, line, pack) in [
            ("G-082", command('0', 40, "refs/heads/x"), false),
            ("G-083", command('b', 40, "main"), true),
            ("G-084", command('0', 40, "main"), false),
            ("G-085", command('b', 64, "main"), true),
            ("G-086", command('0', 64, "main"), false),
            ("G-087", command('0', 64, "main\0report-status"), false),
            ("G-088", "not-a-command".to_owned(), false),
            ("G-089", command('0', 64, "main"), false),
            ("G-090", command('b', 64, "main\0report-status"), true),
            ("G-091", command('b', 40, "main\n"), true),
        ] {
            let head = packets(&[&line, "0000"]);
            let input = [head.as_slice(), b"PACK and more"].concat();
            let (result, body, rest) = read(&input).await;
            assert!(result.unwrap(), "{row}");
            assert_eq!(body, if pack { input.clone() } else { head }, "{row}");
            assert_eq!(rest, if pack { b"".as_slice() } else { b"PACK and more" }, "{row}");
        }
    }

    #[tokio::test]
    async fn g092_input_that_ends_before_the_flush_is_an_error() {
        let (result, ..) = read(&packets(&[&command('b', 40, "main")])).await;
        assert!(matches!(result, Err(ReceiveError::Packet(PacketError::CutLength))));
        let (result, body, _) = read(b"").await;
        assert!(!result.unwrap(), "nothing was asked");
        assert!(body.is_empty());
        let (result, ..) = read(b"0000").await;
        assert!(!result.unwrap(), "nothing was asked either");
    }

    #[tokio::test]
    async fn g152_the_options_of_a_delete_only_push_belong_to_it() {
        let line = command('0', 40, "main\0report-status push-options agent=git/1");
        let tail = ["0000", "ci.skip", "0000"];
        let input = [packets(&[&line, "0000", "ci.skip", "0000"]), b"open".to_vec()].concat();
        let (result, body, rest) = read(&input).await;
        assert!(result.unwrap());
        let amended = command('0', 40, "main\0report-status push-options agent=git/1+ID");
        assert_eq!(body, packets(&[&[amended.as_str()], tail.as_slice()].concat()));
        assert_eq!(rest, b"open");
        let (result, ..) = read(&packets(&[&line, "0000", "ci.skip"])).await;
        assert!(result.is_err(), "cut inside the options");
    }

    #[tokio::test]
    async fn g153_a_signed_delete_only_push_ends_after_its_certificate() {
        let certificate = |new: char| {
            [
                "push-cert\0report-status push-options",
                "certificate version 0.1\n",
                "pusher A <a@b> 1 +0000\n",
                "\n",
                &command(new, 40, "refs/heads/x\n"),
                "-----BEGIN PGP SIGNATURE-----\n",
                &command('b', 40, "not-a-command-but-a-signature\n"),
                "-----END PGP SIGNATURE-----\n",
                "push-cert-end\n",
                "0000",
                "option",
                "0000",
            ]
            .map(str::to_owned)
            .to_vec()
        };
        for (new, pack) in [('0', false), ('b', true)] {
            let lines = certificate(new);
            let head = packets(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            let input = [head.as_slice(), b"PACK"].concat();
            let (result, body, rest) = read(&input).await;
            assert!(result.unwrap());
            assert_eq!(body.ends_with(b"PACK"), pack);
            assert_eq!(rest.is_empty(), pack);
            assert!(body.starts_with(&head));
        }
    }

    #[tokio::test]
    async fn only_the_first_line_with_capabilities_is_amended() {
        let first = command('b', 40, "main\0agent=git/1\n");
        let second = command('b', 40, "other\0agent=git/1\n");
        let shallow = format!("shallow {}", "c".repeat(40));
        let (_, body, _) = read(&packets(&[&shallow, &first, &second, "0000"])).await;
        let expected = command('b', 40, "main\0agent=git/1+ID\n");
        assert_eq!(body, packets(&[&shallow, &expected, &second, "0000"]));
    }

    /// The outer packets of `git send-pack --stateless-rpc`.
    async fn unwrapped(input: &[u8]) -> (Result<bool, ReceiveError>, Vec<u8>, Vec<u8>) {
        let (mut rest, mut body) = (input, Spool::new(None));
        let mut inner = Unwrapped::new(&mut rest);
        let result = read_request(&mut inner, &mut body, &identity(), Rest::ToTheEnd).await;
        (result, body.finish().unwrap().in_memory().unwrap().to_vec(), rest.to_vec())
    }

    fn wrapped(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        for part in parts {
            pktline::put(&mut out, part).unwrap();
        }
        out
    }

    #[tokio::test]
    async fn g093_the_packets_of_send_pack_are_unwrapped_up_to_their_flush() {
        let head = packets(&[&command('b', 40, "main\0push-options"), "0000", "ci.skip", "0000"]);
        let pack = b"PACK\x00\x00\x00\x02";
        let input = [wrapped(&[&head, pack]), pktline::FLUSH.to_vec(), b"0000ok main".to_vec()].concat();
        let (result, body, rest) = unwrapped(&input).await;
        assert!(result.unwrap());
        assert_eq!(body, [head.as_slice(), pack].concat());
        assert_eq!(rest, b"0000ok main");
        let split = [wrapped(&[&head[..7], b"", &head[7..], pack]), b"00010000ok".to_vec()].concat();
        let (result, body, rest) = unwrapped(&split).await;
        assert!(result.unwrap(), "inner packets may lie across outer ones, 0001 is skipped");
        assert_eq!((body, rest), ([head.as_slice(), pack].concat(), b"ok".to_vec()));
    }

    #[tokio::test]
    async fn g094_a_delete_only_request_has_no_pack() {
        let head = packets(&[&command('0', 40, "main"), "0000"]);
        let input = [wrapped(&[&head]), pktline::FLUSH.to_vec(), b"0000ok main\n".to_vec()].concat();
        let (result, body, rest) = unwrapped(&input).await;
        assert!(result.unwrap());
        assert_eq!((body, rest), (head, b"0000ok main\n".to_vec()));
        let (result, body, rest) = unwrapped(b"0000ok main\n").await;
        assert!(!result.unwrap(), "nothing to send");
        assert_eq!((body, rest), (Vec::new(), b"ok main\n".to_vec()));
    }

    #[tokio::test]
    async fn broken_packets_of_send_pack_are_errors() {
        let head = packets(&[&command('b', 40, "main"), "0000"]);
        for (row, input) in
            [("G-095", b"00".to_vec()), ("G-096", wrapped(&[&head])), ("G-097", b"0064short".to_vec())]
        {
            let (result, ..) = unwrapped(&input).await;
            assert!(result.is_err(), "{row}");
        }
    }

    #[tokio::test]
    async fn a_reader_of_packets_takes_a_byte_at_a_time_as_well() {
        let head = packets(&[&command('b', 40, "main"), "0000"]);
        let input = [wrapped(&[&head, b"PACK"]), b"0000rest".to_vec()].concat();
        let (client, server) = tokio::io::duplex(1);
        let writer = tokio::spawn(async move {
            let mut client = client;
            tokio::io::AsyncWriteExt::write_all(&mut client, &input).await.unwrap();
        });
        let mut server = tokio::io::BufReader::with_capacity(3, server);
        let mut body = Vec::new();
        Unwrapped::new(&mut server).read_to_end(&mut body).await.unwrap();
        assert_eq!(body, [head.as_slice(), b"PACK"].concat());
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"rest");
        writer.await.unwrap();
    }
}
