//! CSV import and export, without their pages.

/// Imports this instance runs or ran.
#[derive(Default)]
pub struct Imports {}
