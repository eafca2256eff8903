//! Words for people: values quoted so that they stay short and on one line, lists, and the key that
//! was probably meant.

/// How much of a wrong value is shown, in characters.
pub(crate) const SHOWN_CHARS_MAX: usize = 80;

/// A text in quotes, shortened, with everything escaped that would not print.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().nth(SHOWN_CHARS_MAX).is_none() {
        return format!("{text:?}");
    }
    let begin: String = text.chars().take(SHOWN_CHARS_MAX).collect();
    format!("{begin:?}...")
}

/// A text, shortened.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().nth(SHOWN_CHARS_MAX).is_none() {
        return text.to_owned();
    }
    text.chars()
        .take(SHOWN_CHARS_MAX)
        .chain("...".chars())
        .collect()
}

/// `a, b or c`.
pub(crate) fn listed<S: AsRef<str>>(items: &[S], last: &str) -> String {
    let mut text = String::new();
    for (index, item) in items.iter().enumerate() {
        match index {
            0 => {}
            _ if index + 1 == items.len() => {
                text.push(' ');
                text.push_str(last);
                text.push(' ');
            }
            _ => text.push_str(", "),
        }
        text.push_str(item.as_ref());
    }
    text
}

/// `1 worker`, `2 workers`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// The known word that was probably meant, if one is close.
pub(crate) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let folded = |text: &str| -> String {
        text.chars()
            .filter(|char| !matches!(char, '_' | '-' | ' '))
            .flat_map(char::to_lowercase)
            .collect()
    };
    // No key is nearly as long: a huge word must not cost a huge table.
    if word.chars().nth(SHOWN_CHARS_MAX).is_some() {
        return None;
    }
    let word = folded(word);
    known
        .map(|key| (distance(&word, &folded(key)), key))
        // Two changes turn a short word into a different one.
        .filter(|(distance, key)| {
            *distance
                <= match key.len() {
                    0..=2 => 0,
                    3..=4 => 1,
                    _ => 2,
                }
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// The number of characters to insert, remove, replace, or swap with a neighbour.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().collect();
    let other: Vec<char> = other.chars().collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let replaced = last[j - 1] + usize::from(one[i - 1] != other[j - 1]);
            let mut changes = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                changes = changes.min(before_last[j - 2] + 1);
            }
            row.push(changes);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_with_a_near_miss_are_suggested() {
        let known = ["round_robin", "via", "url"];
        for (word, meant) in [
            ("round-robin", Some("round_robin")),
            ("roundrobbin", Some("round_robin")),
            ("ulr", Some("url")),
            ("URL", Some("url")),
            ("a", None),
            ("robin", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known.into_iter()), meant, "{word}");
        }
    }
}
