//! Names for several regions of the stock platform, by their codes.

const US: [&str; 12] = [
    "atl", "bos", "den", "dfw", "ewr", "iad", "lax", "mia", "ord", "phx", "sea", "sjc",
];
const NORTH_AMERICA: [&str; 16] = [
    "atl", "bos", "den", "dfw", "ewr", "iad", "lax", "mia", "ord", "phx", "sea", "sjc", "gdl",
    "qro", "yul", "yyz",
];
const EUROPE: [&str; 8] = ["ams", "arn", "cdg", "fra", "lhr", "mad", "otp", "waw"];
const SOUTH_AMERICA: [&str; 5] = ["bog", "eze", "gig", "gru", "scl"];
const ASIA_PACIFIC: [&str; 5] = ["bom", "hkg", "nrt", "sin", "syd"];

/// The regions of a name in lower case.
pub(crate) fn regions_of(name: &str) -> Option<&'static [&'static str]> {
    match name {
        "us" | "usa" => Some(&US),
        "na" => Some(&NORTH_AMERICA),
        "eu" => Some(&EUROPE),
        "sa" => Some(&SOUTH_AMERICA),
        "apac" => Some(&ASIA_PACIFIC),
        _ => None,
    }
}
