//! Names of sides, sets of sides, and one value per side. Nothing here assumes exactly two.

use std::fmt;
use std::ops::{Index, IndexMut};
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// The most sides a pool can have: a set of sides is stored as the bits of a PostgreSQL `integer`.
pub const MAX_SIDES: usize = 16;

/// One database of the pool: `a` is `DB1_*`, `b` is `DB2_*`, `c` is `DB3_*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SideId(u8);

impl SideId {
    /// The side with this place in the configured order, counted from 0.
    pub fn from_index(index: usize) -> Option<SideId> {
        (index < MAX_SIDES).then_some(SideId(index as u8))
    }

    /// Place in the configured order, counted from 0.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for SideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(b'a' + self.0))
    }
}

impl fmt::Debug for SideId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SideId {
    type Err = String;

    fn from_str(s: &str) -> Result<SideId, String> {
        match s.as_bytes() {
            [letter @ b'a'..=b'p'] => Ok(SideId(letter - b'a')),
            _ => Err(format!("`{s}` is not the name of a side (a, b, …)")),
        }
    }
}

impl Serialize for SideId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SideId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SideId, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// A set of sides, stored as a bit mask (bit 0 is side a).
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SideSet(u16);

impl SideSet {
    /// No side.
    pub const EMPTY: SideSet = SideSet(0);

    /// The first `count` sides.
    pub fn first(count: usize) -> SideSet {
        (0..count).filter_map(SideId::from_index).collect()
    }

    /// The set stored in a database as `mask`.
    pub fn from_mask(mask: i32) -> SideSet {
        SideSet(mask as u16)
    }

    /// As stored in a database.
    pub fn mask(self) -> i32 {
        i32::from(self.0)
    }

    /// Whether `side` is in the set.
    pub fn contains(self, side: SideId) -> bool {
        self.0 & (1 << side.0) != 0
    }

    /// This set and `side`.
    #[must_use]
    pub fn with(self, side: SideId) -> SideSet {
        SideSet(self.0 | (1 << side.0))
    }

    /// The members of this set that are not in `other`.
    #[must_use]
    pub fn minus(self, other: SideSet) -> SideSet {
        SideSet(self.0 & !other.0)
    }

    /// The members of both sets.
    #[must_use]
    pub fn and(self, other: SideSet) -> SideSet {
        SideSet(self.0 & other.0)
    }

    /// Whether every member is in `other`.
    pub fn is_subset(self, other: SideSet) -> bool {
        self.minus(other).is_empty()
    }

    /// Whether the set has no member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members, in configured order.
    pub fn iter(self) -> impl Iterator<Item = SideId> {
        (0..MAX_SIDES as u8)
            .map(SideId)
            .filter(move |side| self.contains(*side))
    }

    /// The leader of this membership: its first side in configured order.
    pub fn leader(self) -> Option<SideId> {
        self.iter().next()
    }
}

impl FromIterator<SideId> for SideSet {
    fn from_iter<I: IntoIterator<Item = SideId>>(sides: I) -> SideSet {
        sides.into_iter().fold(SideSet::EMPTY, SideSet::with)
    }
}

impl fmt::Display for SideSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.iter().map(|side| side.to_string()).collect();
        write!(f, "{{{}}}", names.join(","))
    }
}

impl fmt::Debug for SideSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SideSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for SideSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<SideSet, D::Error> {
        Ok(Vec::<SideId>::deserialize(deserializer)?.into_iter().collect())
    }
}

/// One `T` for every configured side, in configured order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerSide<T>(Vec<T>);

impl<T> PerSide<T> {
    /// One value a side, made by `make`.
    pub fn new(count: usize, make: impl FnMut(SideId) -> T) -> PerSide<T> {
        PerSide((0..count).filter_map(SideId::from_index).map(make).collect())
    }

    /// The configured sides.
    pub fn ids(&self) -> impl Iterator<Item = SideId> + use<T> {
        (0..self.0.len()).filter_map(SideId::from_index)
    }

    /// The configured sides as a set.
    pub fn all(&self) -> SideSet {
        SideSet::first(self.0.len())
    }

    /// Each side with its value.
    pub fn iter(&self) -> impl Iterator<Item = (SideId, &T)> {
        self.ids().zip(&self.0)
    }

    /// Each side with its value, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (SideId, &mut T)> {
        self.ids().zip(&mut self.0)
    }

    /// Number of configured sides.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value of `side`, if that side is configured.
    pub fn get(&self, side: SideId) -> Option<&T> {
        self.0.get(side.index())
    }

    /// The same sides with values made from these.
    pub fn map<U>(&self, mut f: impl FnMut(SideId, &T) -> U) -> PerSide<U> {
        PerSide(self.iter().map(|(side, value)| f(side, value)).collect())
    }
}

impl<T> Index<SideId> for PerSide<T> {
    type Output = T;

    fn index(&self, side: SideId) -> &T {
        &self.0[side.index()]
    }
}

impl<T> IndexMut<SideId> for PerSide<T> {
    fn index_mut(&mut self, side: SideId) -> &mut T {
        &mut self.0[side.index()]
    }
}

impl<T: Serialize> Serialize for PerSide<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_masks() {
        let b: SideId = "b".parse().unwrap();
        assert_eq!((b.index(), b.to_string()), (1, "b".into()));
        assert!(
            "ab".parse::<SideId>().is_err()
                && "A".parse::<SideId>().is_err()
                && "".parse::<SideId>().is_err()
        );
        let all = SideSet::first(3);
        assert_eq!((all.mask(), all.to_string()), (7, "{a,b,c}".into()));
        assert_eq!(all.minus(SideSet::from_mask(1)).leader(), Some(b));
        assert_eq!(SideSet::EMPTY.leader(), None);
    }
}
