//! PHP's `php` session format.
