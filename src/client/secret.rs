//! A text that is never shown.

use std::fmt;

use zeroize::Zeroizing;

/// A password: neither Debug nor Display shows it, and its memory is overwritten when it goes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// What stands in its place.
    pub(crate) const SHOWN: &str = "***";

    pub(crate) fn new(text: impl Into<String>) -> Self {
        Secret(Zeroizing::new(text.into()))
    }

    /// The text itself, for the server and nobody else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// The same text without it. A short one is only taken for the secret where it stands alone:
    /// its letters are found in any text, which nobody could read without them.
    pub(crate) fn struck_out_of(&self, text: &str) -> Option<String> {
        /// The letters that do not come one after the other by chance.
        const LONG: usize = 4;
        let secret = self.0.as_str();
        if secret.is_empty() {
            return None;
        }
        let is_long = secret.chars().count() >= LONG;
        let is_apart = |one: Option<char>| !one.is_some_and(|one| one.is_alphanumeric());
        let (mut struck, mut kept) = (String::new(), 0);
        for (at, _) in text.match_indices(secret) {
            let end = at + secret.len();
            let (before, after) = (text.get(..at)?, text.get(end..)?);
            if is_long || is_apart(before.chars().next_back()) && is_apart(after.chars().next()) {
                struck.push_str(text.get(kept..at)?);
                struck.push_str(Self::SHOWN);
                kept = end;
            }
        }
        if kept == 0 {
            return None;
        }
        struck.push_str(text.get(kept..)?);
        Some(struck)
    }
}

impl std::hash::Hash for Secret {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::SHOWN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::SHOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_nowhere() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn is_struck_out_of_texts() {
        let secret = Secret::new("hunter2");
        let text = "unknown command 'AUTH' 'hunter2', hunter2";
        assert_eq!(
            secret.struck_out_of(text).as_deref(),
            Some("unknown command 'AUTH' '***', ***")
        );
        assert_eq!(secret.struck_out_of("nothing"), None);
        assert_eq!(Secret::new("").struck_out_of("nothing"), None);
    }

    #[test]
    fn a_short_one_is_struck_out_where_it_stands_alone() {
        for (secret, text, struck) in [
            ("x", "the 'xpending' command; args: 'x'", "the 'xpending' command; args: '***'"),
            ("x", "x is x", "*** is ***"),
            ("abc", "'AUTH' 'abc' abcd abc", "'AUTH' '***' abcd ***"),
            ("a", ":a@ \"a\",a a_", ":***@ \"***\",*** ***_"),
            ("aa", "aaa aa", "aaa ***"),
            ("é", "né é", "né ***"),
            ("abcd", "xabcdx", "x***x"),
        ] {
            assert_eq!(Secret::new(secret).struck_out_of(text).as_deref(), Some(struck));
        }
        for (secret, text) in [("x", "the 'xpending' command"), ("aa", "aaa"), ("R", "ERR no")] {
            assert_eq!(Secret::new(secret).struck_out_of(text), None);
        }
    }
}
