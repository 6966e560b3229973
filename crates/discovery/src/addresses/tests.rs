use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn link(index: u32, networks: &[&str]) -> Link {
    let network = |text: &&str| {
        let (own, prefix) = text.split_once('/').unwrap();
        (ip(own), prefix.parse().unwrap())
    };
    let is_loopback = networks.iter().any(|text| text.starts_with("127."));
    Link { index, name: "if".into(), is_loopback, networks: networks.iter().map(network).collect() }
}

fn mdns() -> AddressPolicy {
    AddressPolicy::new(SourceClass::Mdns)
}

fn endpoints(texts: &[&str]) -> Vec<Endpoint> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn heard(link: u32, ips: &[&str]) -> Vec<Heard> {
    ips.iter().map(|text| Heard { ip: ip(text), link }).collect()
}

/// What `policy` makes of addresses that came in on interface 1 and have no past.
fn select(policy: &AddressPolicy, link: &Link, ips: &[&str]) -> Vec<Endpoint> {
    policy.select(&heard(link.index, ips), 80, std::slice::from_ref(link), None, Instant::now()).endpoints
}

/// `Ok` is the address that is dialled.
type Row = (&'static str, SourceClass, &'static [&'static str], Result<&'static str, Refusal>);

/// A row for each cell of threats §6.9. Heard on interface 2, which has 10.0.0.0/24 and 2001:db8::/64.
const SV_A: &[Row] = {
    use Refusal as R;
    use SourceClass::{Configured, Mdns, Registry};
    const NEVER: &[&str] = &[
        "0.0.0.0:80",
        "0.1.2.3:80",
        "[::]:80",
        "224.0.0.1:80",
        "239.255.255.255:80",
        "[ff02::1]:80",
        "240.0.0.1:80",
        "255.255.255.254:80",
        "255.255.255.255:80",
        "[::ffff:224.0.0.1]:80",
    ];
    const METADATA: &[&str] = &[
        "169.254.169.254:80",
        "169.254.170.2:80",
        "169.254.170.23:80",
        "100.100.100.200:80",
        "[fd00:ec2::254]:80",
        "[fd20:ce::254]:80",
        "168.63.129.16:80",
        "[::ffff:169.254.169.254]:80",
    ];
    const LOOPBACK: &[&str] = &["127.0.0.1:80", "127.9.9.9:80", "[::1]:80", "[::ffff:127.0.0.1]:80"];
    const OFF_LINK: &[&str] =
        &["8.8.8.8:80", "172.17.0.1:80", "10.0.1.1:80", "[2001:db8:1::1]:80", "[fd00::1]:80"];
    &[
        ("SV-A01", Mdns, NEVER, Err(R::NotUnicast)),
        ("SV-A02", Registry, NEVER, Err(R::NotUnicast)),
        ("SV-A03", Configured, NEVER, Err(R::NotUnicast)),
        ("SV-A01", Mdns, &["10.0.0.7:0", "[2001:db8::7]:0"], Err(R::PortZero)),
        ("SV-A02", Registry, &["10.0.0.7:0", "[2001:db8::7]:0"], Err(R::PortZero)),
        ("SV-A03", Configured, &["10.0.0.7:0", "127.0.0.1:0"], Err(R::PortZero)),
        ("SV-A04", Mdns, METADATA, Err(R::MetadataService)),
        ("SV-A05", Registry, METADATA, Err(R::MetadataService)),
        ("SV-A06", Configured, METADATA, Err(R::MetadataService)),
        ("SV-A07", Mdns, LOOPBACK, Err(R::Loopback)),
        ("SV-A08", Registry, LOOPBACK, Err(R::Loopback)),
        ("SV-A09", Configured, &["127.0.0.1:80", "[::ffff:127.0.0.1]:80"], Ok("127.0.0.1:80")),
        ("SV-A09", Configured, &["[::1]:80"], Ok("[::1]:80")),
        ("SV-A10", Mdns, &["169.254.1.1:80", "[::ffff:169.254.1.1]:80"], Err(R::LinkLocal)),
        ("SV-A11", Registry, &["169.254.1.1:80"], Err(R::LinkLocal)),
        ("SV-A12", Configured, &["169.254.1.1:80"], Ok("169.254.1.1:80")),
        ("SV-A13", Mdns, &["[fe80::1]:80", "[fe80::1%9]:80"], Ok("[fe80::1%2]:80")),
        ("SV-A14", Registry, &["[fe80::1]:80", "[febf::1]:80"], Err(R::NoScope)),
        ("SV-A14", Registry, &["[fe80::1%9]:80"], Ok("[fe80::1%9]:80")),
        ("SV-A15", Configured, &["[fe80::1]:80"], Err(R::NoScope)),
        ("SV-A15", Configured, &["[fe80::1%9]:80"], Ok("[fe80::1%9]:80")),
        ("SV-A16", Mdns, &["[::ffff:10.0.0.7]:80"], Ok("10.0.0.7:80")),
        ("SV-A16", Mdns, &["[::ffff:8.8.8.8]:80"], Err(R::OffLink)),
        ("SV-A17", Registry, &["[::ffff:8.8.8.8]:80"], Ok("8.8.8.8:80")),
        ("SV-A18", Configured, &["[::ffff:8.8.8.8]:80"], Ok("8.8.8.8:80")),
        ("SV-A19", Mdns, &["10.0.0.7:80"], Ok("10.0.0.7:80")),
        ("SV-A19", Mdns, &["[2001:db8::7]:80", "[2001:db8::7%5]:80"], Ok("[2001:db8::7]:80")),
        ("SV-A20", Registry, &["10.0.0.7:80"], Ok("10.0.0.7:80")),
        ("SV-A21", Configured, &["10.0.0.7:80"], Ok("10.0.0.7:80")),
        ("SV-A22", Mdns, OFF_LINK, Err(R::OffLink)),
        ("SV-A23", Registry, &["8.8.8.8:80"], Ok("8.8.8.8:80")),
        ("SV-A23", Registry, &["[fd00::1%5]:80"], Ok("[fd00::1]:80")),
        ("SV-A24", Configured, &["8.8.8.8:80"], Ok("8.8.8.8:80")),
        ("SV-A24", Configured, &["[fd00::1]:80"], Ok("[fd00::1]:80")),
    ]
};

#[test]
fn sv_a_every_cell_of_the_address_policy() {
    let heard_on = link(2, &["10.0.0.1/24", "2001:db8::1/64"]);
    for &(row, class, addresses, expected) in SV_A {
        let via = (class == SourceClass::Mdns).then_some(&heard_on);
        let expected = expected.map(|text| text.parse::<SocketAddr>().unwrap());
        for address in addresses {
            let judged = AddressPolicy::new(class).judge(address.parse().unwrap(), via);
            assert_eq!(judged, expected, "{row}: {address} from {class:?}");
        }
    }
}

#[test]
fn s122_each_exception_has_its_setting() {
    let heard_on = link(2, &["10.0.0.1/24"]);
    for class in [SourceClass::Mdns, SourceClass::Registry, SourceClass::Configured] {
        let via = (class == SourceClass::Mdns).then_some(&heard_on);
        for address in ["169.254.169.254:80", "[fd00:ec2::254]:80"] {
            let address: SocketAddr = address.parse().unwrap();
            let policy = AddressPolicy::new(class).allow_address(address.ip());
            assert_eq!(policy.judge(address, via), Ok(address), "{class:?}: by name");
            let other = "169.254.170.2:80".parse().unwrap();
            assert_eq!(policy.judge(other, via), Err(Refusal::MetadataService), "{class:?}: only that one");
        }
        let named = AddressPolicy::new(class).allow_address(ip("224.0.0.1"));
        let judged = named.judge("224.0.0.1:80".parse().unwrap(), via);
        assert_eq!(judged, Err(Refusal::NotUnicast), "{class:?}: never is never");
    }
    let registry = AddressPolicy::new(SourceClass::Registry);
    let loopback: SocketAddr = "127.0.0.1:80".parse().unwrap();
    assert_eq!(registry.clone().allow_loopback(true).judge(loopback, None), Ok(loopback));
    let link_local: SocketAddr = "169.254.1.1:80".parse().unwrap();
    assert_eq!(registry.allow_address(ip("169.254.1.1")).judge(link_local, None), Ok(link_local));
}

#[test]
fn d010_s122_the_routable_addresses_of_the_link_come_first() {
    let eth0 = link(3, &["192.168.1.9/24", "2001:db8::9/64"]);
    let all = ["172.17.0.1", "fe80::1", "2001:db8::5", "192.168.1.5"];
    let on_link = ["192.168.1.5:80", "[2001:db8::5]:80", "[fe80::1%3]:80"];
    assert_eq!(select(&mdns(), &eth0, &all), endpoints(&on_link));
    let with_bridge = [&on_link[..], &["172.17.0.1:80"]].concat();
    assert_eq!(select(&mdns().on_link(OnLink::Prefer), &eth0, &all), endpoints(&with_bridge));
    assert_eq!(select(&mdns().on_link(OnLink::Ignore), &eth0, &all), endpoints(&with_bridge));

    let refused = mdns().select(&heard(3, &all), 80, &[eth0], None, Instant::now()).refused;
    assert_eq!(refused, [(ip("172.17.0.1"), Refusal::OffLink)]);
}

#[test]
fn d010_every_class_has_its_place() {
    let eth0 = link(3, &["10.0.0.9/8", "169.254.7.7/16", "2001:db8::9/64", "fd00::9/64"]);
    let all = [
        "2001:db8:1::5",
        "8.8.8.8",
        "fe80::1",
        "169.254.1.5",
        "fd00::5",
        "2001:db8::5",
        "10.9.0.5",
        "10.0.0.5",
    ];
    let policy = mdns().on_link(OnLink::Prefer);
    let v4_first = [
        "10.0.0.5:80",
        "10.9.0.5:80",
        "[2001:db8::5]:80",
        "[fd00::5]:80",
        "169.254.1.5:80",
        "[fe80::1%3]:80",
        "8.8.8.8:80",
        "[2001:db8:1::5]:80",
    ];
    assert_eq!(select(&policy, &eth0, &all), endpoints(&v4_first));
    let v6_first = [
        "[2001:db8::5]:80",
        "[fd00::5]:80",
        "10.0.0.5:80",
        "10.9.0.5:80",
        "169.254.1.5:80",
        "[fe80::1%3]:80",
        "8.8.8.8:80",
        "[2001:db8:1::5]:80",
    ];
    assert_eq!(select(&policy.prefer(Prefer::V6First), &eth0, &all), endpoints(&v6_first));
}

#[test]
fn d010_an_interface_that_is_gone_has_no_link() {
    let nowhere = heard(7, &["10.0.0.5", "fe80::1"]);
    let links = [link(3, &["10.0.0.9/8"])];
    let select = |policy: AddressPolicy| policy.select(&nowhere, 80, &links, None, Instant::now());
    for on_link in [OnLink::Require, OnLink::Prefer] {
        let selection = select(mdns().on_link(on_link));
        assert_eq!(selection.endpoints, []);
        let expected = [(ip("10.0.0.5"), Refusal::OffLink), (ip("fe80::1"), Refusal::NoScope)];
        assert_eq!(selection.refused, expected);
    }
    assert_eq!(select(mdns().on_link(OnLink::Ignore)).endpoints, endpoints(&["10.0.0.5:80"]));
}

#[test]
fn d011_loopback_only_from_loopback_and_with_permission() {
    let (eth0, lo) = (link(3, &["10.0.0.9/8"]), link(1, &["127.0.0.1/8", "::1/128"]));
    let all = ["127.0.0.1", "::1"];
    let allowed = mdns().allow_loopback(true);
    assert_eq!(select(&allowed, &eth0, &all), []);
    assert_eq!(select(&allowed, &lo, &all), endpoints(&["127.0.0.1:80", "[::1]:80"]));
    assert_eq!(select(&mdns(), &lo, &all), []);
    // What else came in on loopback is judged by loopback's networks.
    assert_eq!(select(&allowed, &lo, &["10.0.0.5"]), []);
}

#[test]
fn d012_one_link_local_address_on_two_interfaces_is_two_endpoints() {
    let links = [link(3, &["10.0.0.9/8"]), link(4, &["10.0.0.9/8"])];
    let both = [heard(4, &["fe80::1"]), heard(3, &["fe80::1"])].concat();
    let selection = mdns().select(&both, 80, &links, None, Instant::now());
    assert_eq!(selection.endpoints, endpoints(&["[fe80::1%3]:80", "[fe80::1%4]:80"]));
    // Any other address is the same everywhere.
    let both = [heard(4, &["10.0.0.5"]), heard(3, &["10.0.0.5"])].concat();
    let selection = mdns().select(&both, 80, &links, None, Instant::now());
    assert_eq!(selection.endpoints, endpoints(&["10.0.0.5:80"]));
}

#[test]
fn d013_what_is_no_peer_is_dropped() {
    let on = link(3, &["10.0.0.9/8", "169.254.7.7/16"]);
    for dropped in ["169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        assert_eq!(select(&mdns(), &on, &[dropped]), [], "{dropped}");
    }
    assert_eq!(select(&mdns(), &on, &["::ffff:10.0.0.1"]), endpoints(&["10.0.0.1:80"]));
    assert_eq!(select(&mdns(), &on, &["169.254.1.1"]), endpoints(&["169.254.1.1:80"]));
}

fn select_after(
    former: &str,
    last_alive: Option<Instant>,
    unreachable: bool,
    ips: &[&str],
    now: Instant,
) -> (Vec<Endpoint>, Option<Instant>) {
    let first: Endpoint = former.parse().unwrap();
    let former = Former { first: &first, last_alive, unreachable };
    let links = [link(3, &["10.0.0.9/8", "2001:db8::9/64"])];
    let selection = mdns().select(&heard(3, ips), 80, &links, Some(former), now);
    (selection.endpoints, selection.recheck)
}

#[test]
fn d014_the_first_stays_first_among_equals() {
    let now = Instant::now();
    let select = |former, ips: &[&str]| select_after(former, None, false, ips, now);
    let stays = (endpoints(&["10.0.0.7:80", "10.0.0.3:80"]), None);
    assert_eq!(select("10.0.0.7:80", &["10.0.0.3", "10.0.0.7"]), stays);
    // A better class wins, and who is gone is gone.
    let better = (endpoints(&["10.0.0.3:80", "[2001:db8::7]:80"]), None);
    assert_eq!(select("[2001:db8::7]:80", &["2001:db8::7", "10.0.0.3"]), better);
    assert_eq!(select("10.0.0.7:80", &["10.0.0.3"]), (endpoints(&["10.0.0.3:80"]), None));
    assert_eq!(select("ta.internal:80", &["10.0.0.3"]), (endpoints(&["10.0.0.3:80"]), None));
}

#[test]
fn d015_s128_an_address_that_answers_stays_first_for_10_s() {
    let alive = Instant::now();
    let at = |secs| alive + Duration::from_secs(secs);
    let select =
        |unreachable, ips: &[&str], now| select_after("10.0.0.7:80", Some(alive), unreachable, ips, now);
    let old_first = (endpoints(&["10.0.0.7:80", "10.0.0.66:80"]), Some(at(10)));
    let only_new = (endpoints(&["10.0.0.66:80"]), None);
    assert_eq!(select(false, &["10.0.0.66"], at(3)), old_first);
    assert_eq!(select(false, &["10.0.0.66"], at(10) - Duration::from_nanos(1)), old_first);
    assert_eq!(select(false, &["10.0.0.66"], at(10)), only_new);
    assert_eq!(select(true, &["10.0.0.66"], at(3)), only_new, "unreachable ends it");

    // Heard in another class: first for having answered, where it belongs after that.
    let first: Endpoint = "[2001:db8::7]:80".parse().unwrap();
    let former = Former { first: &first, last_alive: Some(alive), unreachable: false };
    let links = [link(3, &["10.0.0.9/8", "2001:db8::9/64"])];
    let both = heard(3, &["10.0.0.3", "2001:db8::7"]);
    let selection = mdns().select(&both, 80, &links, Some(former), at(3));
    assert_eq!(selection.endpoints, endpoints(&["[2001:db8::7]:80", "10.0.0.3:80"]));
    assert_eq!(selection.recheck, Some(at(10)));
    // Another port is another process.
    let selection = mdns().select(&both, 81, &links, Some(former), at(3));
    assert_eq!(selection.endpoints, endpoints(&["10.0.0.3:81", "[2001:db8::7]:81"]));
}

#[test]
fn d016_of_20_addresses_the_first_16_are_kept() {
    let on = link(3, &["10.0.0.9/8"]);
    let twenty: Vec<String> = (1..=20).rev().map(|i| format!("10.0.0.{i}")).collect();
    let twenty: Vec<&str> = twenty.iter().map(String::as_str).collect();
    let sixteen: Vec<Endpoint> = (1..=16).map(|i| format!("10.0.0.{i}:80").parse().unwrap()).collect();
    assert_eq!(select(&mdns(), &on, &twenty), sixteen);
}

#[test]
fn on_link_is_the_prefix_bit_for_bit() {
    let on = link(3, &["10.1.2.3/23", "2001:db8::1/65", "192.0.2.1/32"]);
    for (address, expected) in [
        ("10.1.2.0", true),
        ("10.1.3.255", true),
        ("10.1.4.0", false),
        ("10.1.1.255", false),
        ("192.0.2.1", true),
        ("192.0.2.0", false),
        ("2001:db8::7fff:0:0:1", true),
        ("2001:db8::8000:0:0:1", false),
        ("fe80::1", true),
        ("fec0::1", false),
    ] {
        assert_eq!(on.contains(ip(address)), expected, "{address}");
    }
    assert!(link(3, &["10.0.0.1/0"]).contains(ip("1.2.3.4")), "no prefix is everybody");
}

#[test]
fn endpoints_of_lists_are_admitted_by_the_same_policy() {
    let policy = AddressPolicy::new(SourceClass::Configured);
    let admit = |text: &str| policy.admit(text.parse().unwrap());
    assert_eq!(admit("[::ffff:10.0.0.1]:80"), Ok("10.0.0.1:80".parse().unwrap()));
    assert_eq!(admit("ta.internal:80"), Ok("ta.internal:80".parse().unwrap()));
    assert_eq!(admit("ta.internal:0"), Err(DiscoveryError::InvalidPort));
    let why = "169.254.169.254:80 is a metadata service".to_owned();
    assert_eq!(admit("169.254.169.254:80"), Err(DiscoveryError::NoUsableAddress { why }));
}

#[test]
fn this_host_has_a_loopback_link() {
    let links = links().unwrap();
    let lo = links.iter().find(|link| link.is_loopback).unwrap();
    assert!(lo.contains(ip("127.0.0.1")) && lo.index > 0, "{lo:?}");
    assert!(links.is_sorted_by_key(|link| link.index));
}

proptest! {
    /// Whatever is announced in whatever order: the same result, nothing twice, nothing forbidden.
    #[test]
    fn d016_the_order_does_not_depend_on_arrival(
        mut ips in proptest::collection::vec(prop_oneof![
            any::<Ipv4Addr>().prop_map(IpAddr::V4),
            any::<Ipv6Addr>().prop_map(IpAddr::V6),
            (1u8..9).prop_map(|i| IpAddr::from([10, 0, 0, i])),
            (1u16..9).prop_map(|i| IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, i])),
            any::<Ipv4Addr>().prop_map(|v4| v4.to_ipv6_mapped().into()),
        ], 0..40),
        seed in any::<u64>(),
    ) {
        let on = [link(3, &["10.0.0.9/8", "2001:db8::9/64"])];
        let policy = mdns().on_link(OnLink::Prefer);
        let select = |ips: &[IpAddr]| {
            let heard: Vec<_> = ips.iter().map(|&ip| Heard { ip, link: 3 }).collect();
            policy.select(&heard, 80, &on, None, Instant::now()).endpoints
        };
        let first = select(&ips);
        ips.sort_by_key(|ip| xxhash_rust::xxh64::xxh64(ip.to_string().as_bytes(), seed));
        prop_assert_eq!(&select(&ips), &first);
        prop_assert!(first.len() <= 16);
        let distinct: std::collections::HashSet<_> = first.iter().collect();
        prop_assert_eq!(distinct.len(), first.len());
        for endpoint in &first {
            let ip = endpoint.ip().unwrap();
            prop_assert!(ip == ip.to_canonical() && !ip.is_loopback() && !ip.is_multicast() && !ip.is_unspecified());
        }
    }
}
