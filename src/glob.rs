//! Patterns as the server understands them, for names that it does not have as keys.

/// Whether a text matches a pattern: `*` is any text, `?` any byte, `[ab]`, `[a-z]` and `[^a]` one of several,
/// and a backslash goes before one of these that is meant itself. As Redis's `stringmatchlen`.
pub(crate) fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // After the latest star: what follows it, and the text from which that is tried.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        if let Some((b'*', rest)) = pattern.split_first() {
            star = Some((rest, text));
            pattern = rest;
            continue;
        }
        match (text.split_first(), take(pattern)) {
            (None, None) => return true,
            (Some((byte, rest)), Some((one, next))) if one.has(*byte) => {
                (pattern, text) = (next, rest);
                continue;
            }
            _ => {}
        }
        // The star takes one byte more.
        match star.and_then(|(after, from)| Some((after, from.split_first()?.1))) {
            Some((after, from)) => {
                star = Some((after, from));
                (pattern, text) = (after, from);
            }
            None => return false,
        }
    }
}

/// A pattern that only this text matches.
pub(crate) fn escaped(text: &[u8]) -> Vec<u8> {
    let mut pattern = Vec::with_capacity(text.len());
    for byte in text {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\' | b'^' | b'-') {
            pattern.push(b'\\');
        }
        pattern.push(*byte);
    }
    pattern
}

/// What one byte of a text has to be.
enum One<'p> {
    Any,
    Byte(u8),
    /// What is between brackets.
    Of(&'p [u8]),
}

impl One<'_> {
    fn has(&self, byte: u8) -> bool {
        match self {
            One::Any => true,
            One::Byte(own) => *own == byte,
            One::Of(class) => {
                let (is_negated, class) = match class.split_first() {
                    Some((b'^', rest)) => (true, rest),
                    _ => (false, *class),
                };
                is_within(class, byte) != is_negated
            }
        }
    }
}

fn is_within(mut class: &[u8], byte: u8) -> bool {
    loop {
        match class {
            [b'\\', own, rest @ ..] => {
                if *own == byte {
                    return true;
                }
                class = rest;
            }
            [first, b'-', last, rest @ ..] => {
                if (*first.min(last)..=*first.max(last)).contains(&byte) {
                    return true;
                }
                class = rest;
            }
            [own, rest @ ..] => {
                if *own == byte {
                    return true;
                }
                class = rest;
            }
            [] => return false,
        }
    }
}

/// The first of a pattern that does not begin with a star, and the rest.
fn take(pattern: &[u8]) -> Option<(One<'_>, &[u8])> {
    match pattern {
        [] => None,
        [b'?', rest @ ..] => Some((One::Any, rest)),
        [b'\\', own, rest @ ..] => Some((One::Byte(*own), rest)),
        [b'[', rest @ ..] => {
            let (mut end, mut is_escaped) = (0, false);
            for byte in rest {
                match byte {
                    _ if is_escaped => is_escaped = false,
                    b'\\' => is_escaped = true,
                    b']' => break,
                    _ => {}
                }
                end += 1;
            }
            let class = rest.get(..end).unwrap_or(rest);
            Some((One::Of(class), rest.get(end + 1..).unwrap_or_default()))
        }
        [own, rest @ ..] => Some((One::Byte(*own), rest)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_on_the_server() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abcb", false),
            ("a*b*c", "a-b-b-c", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[\\]]llo", "h]llo", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[ab", "b", true),
            ("*:{t*}", "x:{t3}", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_text_matches_itself_alone(text: Vec<u8>, other: Vec<u8>) {
            let pattern = escaped(&text);
            prop_assert!(matches(&pattern, &text));
            prop_assert_eq!(matches(&pattern, &other), text == other);
            prop_assert!(matches(&[&pattern[..], b"*"].concat(), &[&text[..], &other[..]].concat()));
        }
    }
}
