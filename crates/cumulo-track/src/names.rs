//! Names made up for runs and models that got none: `calm-otter-417`.

use rand::Rng;
use rand::seq::IndexedRandom;

const FIRST: &[&str] = &[
    "able", "amber", "bold", "brave", "bright", "brisk", "calm", "clever", "crisp", "daring",
    "deep", "eager", "fair", "fast", "fine", "gentle", "glad", "grand", "keen", "kind", "lively",
    "loyal", "lucky", "merry", "mild", "neat", "noble", "proud", "quick", "quiet", "rare", "sharp",
    "silent", "smooth", "steady", "swift", "tidy", "warm", "wise", "witty",
];
const SECOND: &[&str] = &[
    "ant", "bear", "bee", "bird", "boar", "carp", "cat", "crab", "crane", "crow", "deer", "dove",
    "duck", "eel", "elk", "finch", "fish", "fox", "frog", "goat", "goose", "gull", "hare", "hawk",
    "hen", "horse", "ibis", "koi", "lark", "lynx", "mole", "moose", "moth", "newt", "otter", "owl",
    "panda", "seal", "shrew", "snail", "stork", "swan", "toad", "trout", "wren", "yak",
];

/// A name for people; not unique.
pub(crate) fn random() -> String {
    let mut rng = rand::rng();
    let first = FIRST.choose(&mut rng).unwrap_or(&"calm");
    let second = SECOND.choose(&mut rng).unwrap_or(&"otter");
    format!("{first}-{second}-{}", rng.random_range(0..1000))
}
