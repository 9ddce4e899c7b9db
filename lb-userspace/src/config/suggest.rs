//! "did you mean": the known word that is nearest to a misspelt one.

/// Longest word that is compared: the cost grows with the product of the lengths.
const LONGEST_BYTES: usize = 64;

/// Returns the one of `known` that is nearest to `word`, if any is near enough to be meant.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LONGEST_BYTES {
        return None;
    }
    known
        .into_iter()
        // Numbers and versions are near each other without being meant.
        .filter(|candidate| candidate.chars().any(char::is_alphabetic))
        .filter(|candidate| candidate.len() <= LONGEST_BYTES)
        .map(|candidate| (distance(&simple(word), &simple(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= allowance(word.len().min(candidate.len())))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Words that differ in this are the same to a person.
fn simple(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

/// How many slips a word of this length may have: one, or one in three letters.
fn allowance(length: usize) -> usize {
    (length / 3).clamp(1, 3)
}

/// Returns how many insertions, removals, replacements and swaps of neighbours turn `a` into `b`
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_the_word_that_was_meant() {
        let known = [
            "502",
            "pool",
            "port",
            "protocol",
            "backend_port",
            "source-ip",
        ];
        for (word, meant) in [
            ("pol", Some("pool")),
            ("prot", Some("port")),
            ("protocoll", Some("protocol")),
            ("Protocol", Some("protocol")),
            ("backend-port", Some("backend_port")),
            ("source_ip", Some("source-ip")),
            ("weight", None),
            ("503", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, known), meant, "{word}");
        }
    }
}
