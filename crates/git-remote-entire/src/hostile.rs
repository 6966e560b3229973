//! Bytes that nobody sends on purpose: nothing here may panic, hang, or take memory for what is only announced.

use crate::agent::Identity;
use crate::list;
use crate::outer::Unwrapped;
use crate::pktline;
use crate::receive::{Rest, read_request};
use crate::remote::Service;
use crate::spool::Spool;
use crate::v2;

const SEEDS: &[&[u8]] = &[
    b"",
    b"0000",
    b"0001",
    b"0002",
    b"0003",
    b"ffff",
    b"zzzz",
    b"0064short",
    b"000ahello\n0000",
    b"000eversion 2\n0000",
    b"0014command=ls-refs\n00010000",
    b"001f# service=git-receive-pack\n0000",
    b"001e# service=git-upload-pack\n0000000eversion 2\n0000",
    b"006aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 0000000000000000000000000000000000000000 refs/heads/main\0x0000PACK",
    b"000epush-cert\0x0000",
];

/// Seeds, cut and changed in places: the same in every run.
fn cases() -> impl Iterator<Item = Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % u64::try_from(limit.max(1)).unwrap()).unwrap()
    };
    (0..4000).map(move |round| {
        let mut case: Vec<u8> = (0..=round % 3).flat_map(|_| SEEDS[next(SEEDS.len())].to_vec()).collect();
        for _ in 0..round % 5 {
            let at = next(case.len() + 1);
            match next(3) {
                0 => case.truncate(at),
                1 => case.insert(at, u8::try_from(next(256)).unwrap()),
                _ => {
                    if let Some(byte) = case.get_mut(at) {
                        *byte = b"0123456789abcdefPACKz\0\n "[next(24)];
                    }
                }
            }
        }
        case
    })
}

fn identity() -> Identity {
    Identity { text: "ID".to_owned(), v2_separator: ' ' }
}

#[test]
fn g111_g112_anything_may_be_asked_what_it_is() {
    for case in cases() {
        let _ = v2::is_v2(&case);
        let _ = v2::command(&case);
        let _ = v2::without_fetch_feature(&case, "ref-in-want");
        if let Ok(same) = identity().amend_wants(&case) {
            assert!(same.len() <= case.len() + 3, "what is added is the identity and its separator");
        }
        let _ = identity().amend_v2(&case);
    }
}

#[tokio::test]
async fn g113_anything_may_be_read_as_a_push() {
    for case in cases() {
        let (mut rest, mut body) = (case.as_slice(), Spool::new(None));
        let asked = read_request(&mut rest, &mut body, &identity(), Rest::IfNeeded).await;
        assert!(body.len() <= case.len() as u64 + 3, "{case:?}");
        if matches!(asked, Ok(false)) {
            assert!(case.is_empty() || case.starts_with(b"0000"), "{case:?}");
        }
    }
}

#[tokio::test]
async fn g114_anything_may_be_read_from_send_pack() {
    for case in cases() {
        let (mut rest, mut body) = (case.as_slice(), Spool::new(None));
        let _ = read_request(&mut Unwrapped::new(&mut rest), &mut body, &identity(), Rest::ToTheEnd).await;
        assert!(body.len() <= case.len() as u64 + 3, "{case:?}");
    }
}

#[tokio::test]
async fn g115_anything_may_stand_where_an_announcement_belongs() {
    for case in cases() {
        let mut rest = case.as_slice();
        let _ = list::announcement(&mut rest, Service::ReceivePack).await;
        assert!(case.ends_with(rest));
    }
}

#[tokio::test]
async fn g116_anything_may_be_read_as_a_message() {
    for case in cases() {
        let (mut rest, mut message) = (case.as_slice(), Vec::new());
        let read = pktline::read_message(&mut rest, &mut message).await;
        assert!(case.starts_with(&message), "{case:?}");
        if matches!(read, Ok(true)) {
            assert!(message.ends_with(pktline::FLUSH) && case.ends_with(rest), "{case:?}");
        }
    }
}

#[tokio::test]
async fn g072_the_announcement_is_taken_off_and_nothing_else() {
    let mut rest: &[u8] = b"001f# service=git-receive-pack\n0000003fand the refs";
    list::announcement(&mut rest, Service::ReceivePack).await.unwrap();
    assert_eq!(rest, b"003fand the refs");
}
