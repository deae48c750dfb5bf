//! "Did you mean": the candidate nearest to a misspelt word.

/// The candidate that `word` is most likely a misspelling of, or `None` where nothing is near.
///
/// Nearness is the edit distance with transpositions, upper and lower case alike, and at most a third of the
/// word's length; a word that only drops or adds underscores is always near. The first of equals wins.
///
/// ```
/// use mla_spec::suggest::suggest;
/// assert_eq!(suggest("kv_lora_rnak", ["q_lora_rank", "kv_lora_rank"]), Some("kv_lora_rank"));
/// assert_eq!(suggest("banana", ["q_lora_rank", "kv_lora_rank"]), None);
/// ```
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(word);
    let allowed = (folded.chars().count() / 3).max(1);
    if folded.is_empty() || folded.len() > 200 {
        return None; // nothing in the language is that long, and the distance is quadratic
    }
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&folded, &fold(candidate)),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The word without what people vary when they remember a name: case, underscores, dashes.
fn fold(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::suggest;

    const KEYS: [&str; 4] = ["hidden_size", "q_lora_rank", "kv_lora_rank", "v_head_dim"];

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(suggest("hiden_size", KEYS), Some("hidden_size"));
        assert_eq!(suggest("kv_lora_rnak", KEYS), Some("kv_lora_rank"));
        assert_eq!(suggest("VHeadDim", KEYS), Some("v_head_dim"));
        assert_eq!(suggest("q-lora-rank", KEYS), Some("q_lora_rank"));
    }

    #[test]
    fn another_word_finds_nothing() {
        assert_eq!(suggest("num_experts", KEYS), None);
        assert_eq!(suggest("", KEYS), None);
        assert_eq!(suggest(&"hidden_size".repeat(1000), KEYS), None);
    }

    #[test]
    fn the_nearest_of_several_wins() {
        assert_eq!(suggest("q_lora_rang", KEYS), Some("q_lora_rank"));
    }
}
