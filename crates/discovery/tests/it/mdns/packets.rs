//! DNS messages by hand: what a responder, or somebody who plays one, puts on the wire.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use super::bed::{Bed, GROUP};

pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const SRV: u16 = 33;
pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

/// A response in the making.
#[derive(Clone, Default)]
pub(crate) struct Response {
    answers: Vec<Vec<u8>>,
    pub(crate) ttl: u32,
}

impl Response {
    pub(crate) fn new() -> Self {
        Self { answers: Vec::new(), ttl: 120 }
    }

    pub(crate) fn with_ttl(ttl: u32) -> Self {
        Self { answers: Vec::new(), ttl }
    }

    pub(crate) fn record(mut self, name: &[&[u8]], kind: u16, data: &[u8]) -> Self {
        let mut bytes = encode_name(name);
        bytes.extend(kind.to_be_bytes());
        // PTR records are shared, the others are the only ones of their name.
        let class: u16 = if kind == PTR { 1 } else { 0x8001 };
        bytes.extend(class.to_be_bytes());
        bytes.extend(self.ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        self.answers.push(bytes);
        self
    }

    pub(crate) fn ptr(self, bed: &Bed, label: &[u8]) -> Self {
        let base = bed.service.base().to_owned();
        let instance = instance(bed, label);
        self.record(&[format!("_{base}").as_bytes(), b"_tcp", b"local"], PTR, &instance)
    }

    pub(crate) fn srv(self, bed: &Bed, label: &[u8], port: u16, host: &str) -> Self {
        let mut data = vec![0, 0, 0, 0];
        data.extend(port.to_be_bytes());
        data.extend(encode_name(&[host.as_bytes(), b"local"]));
        let service = format!("_{}", bed.service.base());
        self.record(&[label, service.as_bytes(), b"_tcp", b"local"], SRV, &data)
    }

    pub(crate) fn txt(self, bed: &Bed, label: &[u8], strings: &[&[u8]]) -> Self {
        let mut data = Vec::new();
        for string in strings {
            data.push(u8::try_from(string.len()).unwrap());
            data.extend(*string);
        }
        if data.is_empty() {
            data.push(0);
        }
        let service = format!("_{}", bed.service.base());
        self.record(&[label, service.as_bytes(), b"_tcp", b"local"], TXT, &data)
    }

    pub(crate) fn a(self, host: &str, ip: Ipv4Addr) -> Self {
        self.record(&[host.as_bytes(), b"local"], A, &ip.octets())
    }

    /// Everything about an instance at 127.0.0.1.
    pub(crate) fn whole(bed: &Bed, label: &str, port: u16, strings: &[&[u8]]) -> Self {
        Self::new()
            .ptr(bed, label.as_bytes())
            .srv(bed, label.as_bytes(), port, "host-of-it")
            .txt(bed, label.as_bytes(), strings)
            .a("host-of-it", Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0, 0, 0x84, 0, 0, 0];
        bytes.extend(u16::try_from(self.answers.len()).unwrap().to_be_bytes());
        bytes.extend([0, 0, 0, 0]);
        bytes.extend(self.answers.concat());
        bytes
    }

    pub(crate) fn send(&self, bed: &Bed, socket: &UdpSocket) {
        send(bed, socket, &self.bytes());
    }
}

pub(crate) fn send(bed: &Bed, socket: &UdpSocket, bytes: &[u8]) {
    // A packet that the system refuses, such as one that is too long, is one that nobody gets.
    let _refused = socket.send_to(bytes, SocketAddrV4::new(GROUP, bed.port));
}

/// Waits until somebody asks for instances: from then on the library takes answers.
pub(crate) fn wait_for_question(wire: &UdpSocket) {
    let mut buffer = [0; 9_000];
    loop {
        let len = wire.recv(&mut buffer).expect("a question within the time of the socket");
        if parse(&buffer[..len]).is_some_and(|packet| packet.asks_ptr) {
            return;
        }
    }
}

/// Asks for all instances of the type.
pub(crate) fn ask(bed: &Bed, socket: &UdpSocket) {
    let service = format!("_{}", bed.service.base());
    let mut bytes = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(encode_name(&[service.as_bytes(), b"_tcp", b"local"]));
    bytes.extend([0, 12, 0, 1]);
    send(bed, socket, &bytes);
}

fn instance(bed: &Bed, label: &[u8]) -> Vec<u8> {
    let service = format!("_{}", bed.service.base());
    encode_name(&[label, service.as_bytes(), b"_tcp", b"local"])
}

pub(crate) fn encode_name(labels: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(*label);
    }
    bytes.push(0);
    bytes
}

/// What a packet is, as far as these tests want to know.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) is_response: bool,
    /// The first question is for a PTR record.
    pub(crate) asks_ptr: bool,
    /// It asks, and says what it would answer itself: a name is probed for.
    pub(crate) is_probe: bool,
    /// Kinds and TTLs of the answers.
    pub(crate) answers: Vec<(u16, u32)>,
}

impl Seen {
    /// Whether it takes back what was announced.
    pub(crate) fn is_goodbye(&self) -> bool {
        self.is_response && !self.answers.is_empty() && self.answers.iter().all(|(_, ttl)| *ttl == 0)
    }
}

/// Reads the head of a message and its answers.
pub(crate) fn parse(bytes: &[u8]) -> Option<Seen> {
    let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let mut at = 12;
    let mut asks_ptr = false;
    for _ in 0..word(4)? {
        at = skip_name(bytes, at)?;
        asks_ptr |= word(at) == Some(PTR);
        at += 4;
    }
    let mut answers = Vec::new();
    for _ in 0..word(6)? {
        at = skip_name(bytes, at)?;
        let ttl = u32::from_be_bytes(bytes.get(at + 4..at + 8)?.try_into().ok()?);
        answers.push((word(at)?, ttl));
        at += 10 + usize::from(word(at + 8)?);
    }
    let is_response = bytes.get(2)? & 0x80 != 0;
    let is_probe = !is_response && word(8)? > 0;
    Some(Seen { is_response, asks_ptr: asks_ptr && !is_response, is_probe, answers })
}

fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match bytes.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return Some(at + 2),
            len => at += usize::from(*len) + 1,
        }
    }
}
