//! What Git wants of the commands that follow: the lines `option <name> <value>` (helper spec §9).

/// The options that were set, ready to become flags of `git send-pack` and `git fetch-pack`.
#[derive(Clone, Debug, Default)]
pub struct Options {
    dry_run: bool,
    atomic: bool,
    signed: Option<&'static str>,
    force_if_includes: bool,
    push_options: Vec<String>,
    leases: Vec<String>,
    progress: Option<bool>,
    verbosity: Option<i32>,
    family: Option<Family>,
    fetch: FetchOptions,
}

/// Which kind of address a name may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "there are two families of addresses")]
pub enum Family {
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

/// What matters only where this helper drives `git fetch-pack` itself.
#[derive(Clone, Debug, Default)]
struct FetchOptions {
    cloning: bool,
    check_connectivity: bool,
    follow_tags: bool,
    update_shallow: bool,
    deepen_relative: bool,
    from_promisor: bool,
    refetch: bool,
    depth: Option<String>,
    deepen_since: Option<String>,
    deepen_not: Vec<String>,
    filter: Option<String>,
}

impl Options {
    /// Takes what stands behind `option `; whether it is one of ours. `may_fetch` says whether Git can ask us
    /// for `fetch`, without which its options would be promises nobody keeps.
    pub fn set(&mut self, option: &str, may_fetch: bool) -> bool {
        let (name, value) = option.split_once(' ').unwrap_or((option, ""));
        let on = value == "true";
        match name {
            "dry-run" => self.dry_run = on,
            "atomic" => self.atomic = on,
            "force-if-includes" => self.force_if_includes = on,
            // Git sends `pushcert`; `push-cert` is what the reference helper answers to.
            "pushcert" | "push-cert" => {
                self.signed = match value {
                    "true" => Some("--signed=true"),
                    "if-asked" => Some("--signed=if-asked"),
                    _ => None,
                };
            }
            "push-option" | "cas" => {
                let Some(text) = unquoted(value) else { return false };
                if name == "cas" { self.leases.push(text) } else { self.push_options.push(text) }
            }
            "object-format" => {}
            "progress" => self.progress = Some(on),
            "verbosity" => match value.parse() {
                Ok(level) => self.verbosity = Some(level),
                Err(_) => return false,
            },
            "family" => match value {
                "ipv4" => self.family = Some(Family::Ipv4),
                "ipv6" => self.family = Some(Family::Ipv6),
                "all" => self.family = None,
                _ => return false,
            },
            _ if may_fetch => return self.fetch.set(name, value),
            _ => return false,
        }
        true
    }

    /// The addresses a name may become, or `None` for all.
    pub fn family(&self) -> Option<Family> {
        self.family
    }

    /// The flags for `git send-pack`, in a fixed order.
    pub fn send_pack_flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut flag = |on: bool, text: &str| {
            if on {
                flags.push(text.to_owned());
            }
        };
        flag(self.dry_run, "--dry-run");
        flag(self.atomic, "--atomic");
        flag(self.signed.is_some(), self.signed.unwrap_or_default());
        flag(self.force_if_includes, "--force-if-includes");
        flags.extend(self.push_options.iter().map(|text| format!("--push-option={text}")));
        flags.extend(self.leases.iter().map(|lease| format!("--force-with-lease={lease}")));
        match self.progress {
            Some(true) => flags.push("--progress".to_owned()),
            Some(false) => flags.push("--no-progress".to_owned()),
            None => {}
        }
        match self.verbosity {
            Some(level) if level <= 0 => flags.push("--quiet".to_owned()),
            Some(level) if level > 1 => flags.push("--verbose".to_owned()),
            _ => {}
        }
        flags
    }

    /// The flags for `git fetch-pack`, in a fixed order.
    pub fn fetch_pack_flags(&self) -> Vec<String> {
        let fetch = &self.fetch;
        let mut flags = Vec::new();
        for (on, text) in [
            (fetch.follow_tags, "--include-tag"),
            (self.verbosity.is_some_and(|level| level >= 3), "-v"),
            (self.verbosity.is_some_and(|level| level <= 0), "--quiet"),
            (fetch.check_connectivity, "--check-self-contained-and-connected"),
            (fetch.cloning, "--cloning"),
            (fetch.update_shallow, "--update-shallow"),
            (self.progress == Some(false), "--no-progress"),
            (fetch.deepen_relative, "--deepen-relative"),
            (fetch.from_promisor, "--from-promisor"),
            (fetch.refetch, "--refetch"),
        ] {
            if on {
                flags.push(text.to_owned());
            }
        }
        flags.extend(fetch.depth.iter().map(|depth| format!("--depth={depth}")));
        flags.extend(fetch.deepen_since.iter().map(|since| format!("--shallow-since={since}")));
        flags.extend(fetch.deepen_not.iter().map(|not| format!("--shallow-exclude={not}")));
        flags.extend(fetch.filter.iter().map(|filter| format!("--filter={filter}")));
        flags
    }
}

impl FetchOptions {
    fn set(&mut self, name: &str, value: &str) -> bool {
        let on = value == "true";
        match name {
            "cloning" => self.cloning = on,
            "check-connectivity" => self.check_connectivity = on,
            "followtags" => self.follow_tags = on,
            "update-shallow" => self.update_shallow = on,
            "deepen-relative" => self.deepen_relative = on,
            "from-promisor" => self.from_promisor = on,
            "refetch" => self.refetch = on,
            // Fewer wants than refs is what fetch-pack does anyway.
            "no-dependents" => {}
            "depth" | "deepen-since" | "deepen-not" | "filter" => {
                let Some(text) = unquoted(value) else { return false };
                match name {
                    "depth" => self.depth = Some(text),
                    "deepen-since" => self.deepen_since = Some(text),
                    "deepen-not" => self.deepen_not.push(text),
                    _ => self.filter = Some(text),
                }
            }
            _ => return false,
        }
        true
    }
}

/// Undoes Git's C-style quotes, where there are any. `None` for quotes that do not end, for an unknown escape,
/// for what is no UTF-8 then, and for a NUL, which no argument of a program can hold.
fn unquoted(value: &str) -> Option<String> {
    let Some(quoted) = value.strip_prefix('"') else { return Some(value.to_owned()) };
    let mut text = Vec::new();
    let mut rest = quoted.bytes();
    loop {
        match rest.next()? {
            b'"' => break,
            b'\\' => text.push(match rest.next()? {
                b'a' => 7,
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'v' => 11,
                plain @ (b'"' | b'\\') => plain,
                high @ b'0'..=b'3' => {
                    let mut value = high - b'0';
                    for _ in 0..2 {
                        let digit = rest.next().filter(|digit| matches!(digit, b'0'..=b'7'))?;
                        value = value * 8 + (digit - b'0');
                    }
                    value
                }
                _ => return None,
            }),
            byte => text.push(byte),
        }
    }
    if rest.next().is_some() || text.contains(&0) {
        return None;
    }
    String::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(options: &[&str]) -> (Vec<bool>, String) {
        let mut set = Options::default();
        let known = options.iter().map(|option| set.set(option, false)).collect();
        (known, set.send_pack_flags().join(" "))
    }

    #[test]
    fn each_option_has_its_answer_and_its_flags() {
        let table: &[(&str, &[&str], &[bool], &str)] = &[
            ("G-024", &["object-format sha1"], &[true], ""),
            ("G-025", &["dry-run true"], &[true], "--dry-run"),
            (
                "G-026",
                &["atomic true", "force-if-includes true"],
                &[true, true],
                "--atomic --force-if-includes",
            ),
            ("G-027", &["push-cert true"], &[true], "--signed=true"),
            ("G-028", &["push-cert if-asked"], &[true], "--signed=if-asked"),
            (
                "G-029",
                &[
                    "push-option ci.skip",
                    "push-option ref-prefix=refs/heads/",
                    "cas refs/heads/main:deadbeef",
                ],
                &[true, true, true],
                "--push-option=ci.skip --push-option=ref-prefix=refs/heads/ \
                 --force-with-lease=refs/heads/main:deadbeef",
            ),
            ("G-030", &["weird-option value"], &[false], ""),
            ("G-150", &["pushcert true"], &[true], "--signed=true"),
            ("off", &["dry-run true", "dry-run false", "atomic yes"], &[true, true, true], ""),
            (
                "order",
                &["cas a:b", "push-option x", "pushcert if-asked", "atomic true", "dry-run true"],
                &[true; 5],
                "--dry-run --atomic --signed=if-asked --push-option=x --force-with-lease=a:b",
            ),
            ("GB-H6", &["progress true", "verbosity 0"], &[true, true], "--progress --quiet"),
            ("GB-H6", &["progress false", "verbosity 2"], &[true, true], "--no-progress --verbose"),
            ("GB-H6", &["verbosity 1"], &[true], ""),
            ("bad", &["verbosity loud", "family ipv5", "push-option \"x"], &[false, false, false], ""),
            ("fetch only", &["depth 1", "cloning true", "filter blob:none"], &[false, false, false], ""),
        ];
        for (row, options, known, expected) in table {
            let (answers, got) = flags(options);
            assert_eq!(answers, *known, "{row}");
            assert_eq!(got, *expected, "{row}");
        }
    }

    #[test]
    fn family_is_kept_for_the_transport() {
        let mut options = Options::default();
        assert!(options.set("family ipv4", false));
        assert_eq!(options.family(), Some(Family::Ipv4));
        assert!(options.set("family ipv6", false));
        assert_eq!(options.family(), Some(Family::Ipv6));
        assert!(options.set("family all", false));
        assert_eq!(options.family(), None);
    }

    #[test]
    fn git_quotes_are_undone() {
        for (quoted, text) in [
            ("plain", Some("plain")),
            ("with blank", Some("with blank")),
            ("", Some("")),
            (r#""a\"b""#, Some("a\"b")),
            (r#""\303\251 x""#, Some("é x")),
            (r#""a\\b\tc\n""#, Some("a\\b\tc\n")),
            (r#""\a\b\f\v\r""#, Some("\u{7}\u{8}\u{c}\u{b}\r")),
            (r#""open"#, None),
            (r#""x" y"#, None),
            (r#""\q""#, None),
            (r#""\400""#, None),
            (r#""\08x""#, None),
            (r#""\000""#, None),
            (r#""\377""#, None),
            (r#"""#, None),
        ] {
            assert_eq!(unquoted(quoted).as_deref(), text, "{quoted}");
        }
    }

    #[test]
    fn where_we_fetch_ourselves_the_options_of_a_fetch_count() {
        let mut options = Options::default();
        for option in [
            "depth 5",
            "deepen-since 2020-01-01",
            "deepen-not v1",
            "deepen-not v2",
            "filter blob:none",
            "cloning true",
            "check-connectivity true",
            "followtags true",
            "update-shallow true",
            "deepen-relative true",
            "refetch true",
            "from-promisor true",
            "no-dependents true",
            "progress false",
            "verbosity 0",
        ] {
            assert!(options.set(option, true), "{option}");
        }
        assert_eq!(
            options.fetch_pack_flags().join(" "),
            "--include-tag --quiet --check-self-contained-and-connected --cloning --update-shallow \
             --no-progress --deepen-relative --from-promisor --refetch --depth=5 --shallow-since=2020-01-01 \
             --shallow-exclude=v1 --shallow-exclude=v2 --filter=blob:none"
        );
        assert!(!options.set("weird true", true));
    }
}
