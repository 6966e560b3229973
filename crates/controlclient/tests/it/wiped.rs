//! What is left of a secret in this process's memory (S-200).

use std::fs::File;
use std::io::BufRead as _;
use std::os::unix::fs::FileExt as _;

use peerage_controlclient::{Bearer, Gateway};
use zeroize::Zeroizing;

/// So that what is looked for is not found where it is kept.
const MASK: u8 = 0x5a;

/// How often the text behind the mask is in memory that this process can write.
fn found(masked: &[u8]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = File::open("/proc/self/mem").unwrap();
    let first = masked[0] ^ MASK;
    let mut found = 0;
    let mut buffer = vec![0; 1 << 20];
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ').unwrap();
        let (from, to) = range.split_once('-').unwrap();
        if !rest.starts_with("rw") || rest.contains("[v") {
            continue;
        }
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        while at < to {
            // Not to be found itself.
            buffer.fill(0);
            let wanted = buffer.len().min((to - at) as usize);
            // Another thread may have given it back by now.
            let Ok(read @ 1..) = memory.read_at(&mut buffer[..wanted], at) else { break };
            let mut left = &buffer[..read];
            // Searches as fast in a debug build, where a loop over bytes takes seconds.
            while left.skip_until(first).unwrap() > 0 {
                let end = left.len();
                let after = &buffer[read - end..read];
                found += usize::from(
                    buffer[read - end - 1] == first
                        && after.len() >= masked.len() - 1
                        && after.iter().zip(&masked[1..]).all(|(byte, masked)| byte ^ MASK == *masked),
                );
            }
            // What lies across two reads is read again.
            at += if read < wanted || at + wanted as u64 == to { read } else { read - masked.len() } as u64;
        }
    }
    found
}

#[test]
fn s200_a_bearer_is_wiped_with_its_last_copy() {
    let masked: Vec<u8> = (0..40_u32).map(|place| (b'A' + (place * place * 7 % 26) as u8) ^ MASK).collect();
    // Room for all of it: what grows leaves copies.
    let unmasked = || {
        let mut text = Zeroizing::new(String::with_capacity(masked.len()));
        text.extend(masked.iter().map(|byte| char::from(byte ^ MASK)));
        text
    };
    // An allocator writes its own notes where freed memory begins: the end is looked for.
    let end = &masked[24..];
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, &*unmasked()).unwrap();

    for make in [&|| Bearer::new(&*unmasked()).unwrap(), &|| Bearer::from_file(&file).unwrap()]
        as [&dyn Fn() -> Bearer; 2]
    {
        assert_eq!(found(end), 0, "before there is a bearer");
        let bearer = make();
        let gateway = Gateway::new("127.0.0.1:1").bearer(bearer.clone());
        drop(bearer);
        assert_ne!(found(end), 0, "a copy is left");
        drop(gateway);
        assert_eq!(found(end), 0, "after the last one");
    }
}
