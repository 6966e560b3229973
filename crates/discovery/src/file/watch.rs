//! When to read a file again.
//!
//! Change notifications miss network file systems and files that are renamed into place, so the file is
//! looked at instead. What it looks like is its device, inode, size and time of change; two looks must
//! agree before it is read, or a writer would be caught in the act.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    path::Path,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use super::{MAX_FILE, fingerprint};

/// The time between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// How long a change must look the same.
pub(super) const SETTLE: Duration = Duration::from_millis(50);
/// The least time between a look and one that was asked for.
pub(super) const REFRESH: Duration = Duration::from_secs(1);
/// A file that is written twice within one tick of its file system's clock looks the same after both. So
/// after a change it is read this many times more, whatever it looks like.
const DOUBLE_CHECKS: u8 = 2;

/// What a file looks like from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Missing,
    Unreadable(String),
    There(Stamp),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: Option<SystemTime>,
}

/// What is to be done at the next look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Look,
    Read,
}

/// What a look showed.
#[derive(Debug)]
pub(super) struct Seen {
    look: Look,
    /// What was read, if that was wanted and the file stayed the same meanwhile.
    text: Option<Vec<u8>>,
}

/// What to make of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    Missing,
    Unreadable(String),
    Text(Vec<u8>),
}

/// What to do after a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// To be taken in now.
    pub(super) content: Option<Content>,
    /// When to look again.
    pub(super) at: Instant,
}

/// Looks become contents. Pure.
#[derive(Debug)]
pub(super) struct Watch {
    every: Duration,
    /// What was taken in last looked like this.
    taken: Option<Look>,
    fingerprint: Option<u64>,
    /// What the last look showed, if it is not what was taken in.
    changing: Option<Look>,
    double_checks: u8,
}

impl Watch {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, taken: None, fingerprint: None, changing: None, double_checks: 0 }
    }

    /// What the next look is for. The first one, one at a change and double checks read at once; so does
    /// one at a file that could not be read, because from outside that may look as if it could.
    pub(super) fn wanted(&self) -> Wanted {
        match (&self.taken, &self.changing) {
            (Some(Look::Missing | Look::There(_)), None) if self.double_checks == 0 => Wanted::Look,
            _ => Wanted::Read,
        }
    }

    pub(super) fn saw(&mut self, Seen { look, text }: Seen, now: Instant) -> Next {
        let was_first = self.taken.is_none() && self.changing.is_none();
        let is_settled = was_first || self.changing.as_ref() == Some(&look);
        let is_as_taken = self.taken.as_ref() == Some(&look);
        if is_as_taken {
            self.changing = None;
        }
        let content = match (&look, text) {
            (_, None) if is_as_taken => None,
            (Look::Missing, _) if is_settled => Some(Content::Missing),
            (Look::Unreadable(why), _) if is_settled => Some(Content::Unreadable(why.clone())),
            (Look::There(_), Some(text)) if is_as_taken => {
                self.double_checks = self.double_checks.saturating_sub(1);
                (self.fingerprint != Some(fingerprint(&text))).then_some(Content::Text(text))
            }
            (Look::There(_), Some(text)) if is_settled => {
                self.double_checks = DOUBLE_CHECKS;
                Some(Content::Text(text))
            }
            _ => {
                // It changed, or goes on changing.
                self.changing = Some(look);
                return Next { content: None, at: now + SETTLE };
            }
        };
        if let Some(content) = &content {
            self.fingerprint = match content {
                Content::Text(text) => Some(fingerprint(text)),
                Content::Missing | Content::Unreadable(_) => None,
            };
            self.taken = Some(look);
            self.changing = None;
        }
        Next { content, at: now + self.every }
    }
}

/// Looks at the file, and reads it if that is `wanted`. Blocks.
pub(super) fn look(path: &Path, wanted: Wanted) -> Seen {
    let look = stat(std::fs::metadata(path));
    let text = match (wanted, &look) {
        (Wanted::Read, Look::There(stamp)) => match read(path, stamp) {
            Ok(text) => text,
            Err(error) => return Seen { look: unreadable(error), text: None },
        },
        _ => None,
    };
    Seen { look, text }
}

/// The text, unless the file is not the one of `stamp` or changed while it was read.
fn read(path: &Path, stamp: &Stamp) -> io::Result<Option<Vec<u8>>> {
    let expected = Look::There(stamp.clone());
    let file = File::open(path)?;
    if stat(file.metadata()) != expected {
        return Ok(None);
    }
    let mut text = Vec::new();
    (&file).take(MAX_FILE + 1).read_to_end(&mut text)?;
    Ok((stat(file.metadata()) == expected).then_some(text))
}

fn stat(metadata: io::Result<Metadata>) -> Look {
    match metadata {
        // Opening a pipe would wait for a writer.
        Ok(metadata) if !metadata.is_file() => Look::Unreadable("it is not a file".to_owned()),
        Ok(metadata) if metadata.len() > MAX_FILE => {
            Look::Unreadable(format!("its {} bytes exceed the limit of {MAX_FILE}", metadata.len()))
        }
        Ok(metadata) => Look::There(Stamp::of(&metadata)),
        Err(error) => unreadable(error),
    }
}

fn unreadable(error: io::Error) -> Look {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Look::Missing,
        _ => Look::Unreadable(error.to_string()),
    }
}

impl Stamp {
    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;

        let (device, inode) = (metadata.dev(), metadata.ino());
        Self { device, inode, size: metadata.len(), changed: metadata.modified().ok() }
    }

    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        Self { device: 0, inode: 0, size: metadata.len(), changed: metadata.modified().ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(size: u64) -> Look {
        Look::There(Stamp { device: 1, inode: 1, size, changed: None })
    }

    fn seen(look: Look, text: Option<&str>) -> Seen {
        Seen { look, text: text.map(|text| text.as_bytes().to_vec()) }
    }

    fn text(text: &str) -> Option<Content> {
        Some(Content::Text(text.as_bytes().to_vec()))
    }

    /// A watch that has taken in `a` and has checked twice that it is so.
    fn watching(now: Instant) -> Watch {
        let mut watch = Watch::new(EVERY);
        assert_eq!(watch.wanted(), Wanted::Read);
        assert_eq!(watch.saw(seen(there(1), Some("a")), now), Next { content: text("a"), at: now + EVERY });
        for _ in 0..2 {
            assert_eq!(watch.wanted(), Wanted::Read, "a double check");
            assert_eq!(watch.saw(seen(there(1), Some("a")), now), Next { content: None, at: now + EVERY });
        }
        assert_eq!(watch.wanted(), Wanted::Look);
        watch
    }

    #[test]
    fn d091_a_change_is_read_when_two_looks_agree() {
        let now = Instant::now();
        let mut watch = watching(now);
        assert_eq!(watch.saw(seen(there(1), None), now), Next { content: None, at: now + EVERY });
        assert_eq!(watch.saw(seen(there(2), None), now), Next { content: None, at: now + SETTLE });
        assert_eq!(watch.wanted(), Wanted::Read);
        // Still being written.
        assert_eq!(watch.saw(seen(there(3), Some("abc")), now), Next { content: None, at: now + SETTLE });
        // It changed while it was read.
        assert_eq!(watch.saw(seen(there(3), None), now), Next { content: None, at: now + SETTLE });
        assert_eq!(
            watch.saw(seen(there(3), Some("abc")), now),
            Next { content: text("abc"), at: now + EVERY }
        );
        assert!(EVERY + SETTLE <= Duration::from_millis(1200), "the limit of D-091");
    }

    #[test]
    fn d091_the_same_look_may_hide_another_text() {
        let now = Instant::now();
        let mut watch = Watch::new(EVERY);
        watch.saw(seen(there(1), Some("a")), now);
        assert_eq!(watch.saw(seen(there(1), Some("b")), now).content, text("b"));
    }

    #[test]
    fn d091_what_changes_back_is_no_change() {
        let now = Instant::now();
        let mut watch = watching(now);
        assert_eq!(watch.saw(seen(Look::Missing, None), now), Next { content: None, at: now + SETTLE });
        assert_eq!(watch.saw(seen(there(1), Some("a")), now), Next { content: None, at: now + EVERY });
        assert_eq!(watch.wanted(), Wanted::Look);
    }

    #[test]
    fn d091_trouble_is_told_once() {
        let now = Instant::now();
        let denied = || Look::Unreadable("denied".to_owned());
        let mut watch = watching(now);
        watch.saw(seen(Look::Missing, None), now);
        assert_eq!(watch.saw(seen(Look::Missing, None), now).content, Some(Content::Missing));
        assert_eq!(watch.wanted(), Wanted::Look);
        assert_eq!(watch.saw(seen(Look::Missing, None), now), Next { content: None, at: now + EVERY });
        watch.saw(seen(denied(), None), now);
        assert_eq!(
            watch.saw(seen(denied(), None), now).content,
            Some(Content::Unreadable("denied".to_owned()))
        );
        assert_eq!(watch.wanted(), Wanted::Read, "from outside it may look as if it could be read");
        assert_eq!(watch.saw(seen(denied(), None), now), Next { content: None, at: now + EVERY });
        watch.saw(seen(there(1), Some("a")), now);
        assert_eq!(watch.saw(seen(there(1), Some("a")), now).content, text("a"), "it is good again");
    }
}
