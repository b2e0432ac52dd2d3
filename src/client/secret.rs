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

    /// The same text without it.
    pub(crate) fn struck_out_of(&self, text: &str) -> Option<String> {
        let found = !self.0.is_empty() && text.contains(self.0.as_str());
        found.then(|| text.replace(self.0.as_str(), Self::SHOWN))
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
}
