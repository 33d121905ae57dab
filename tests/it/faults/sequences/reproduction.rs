//! Lists that once failed, shortened, with the reason they are kept for.

use super::Op;

pub fn lists() -> Vec<(&'static str, Vec<Op>)> {
    vec![]
}
