//! The JSON API. Every mutation is an operation with a name: `Idempotency-Key` or `X-Op-Id`, else a new one; repeating a request
//! with its name never applies it twice, through whichever instance.

pub(super) mod conflicts;
pub(super) mod items;
pub(super) mod openapi;
pub(super) mod ops;
mod request;
pub(super) mod resource;
pub(super) mod servers;
mod tags;
