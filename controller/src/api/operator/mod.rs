//! The operators' API, below `/admin/v1`.

pub(super) mod accounts;
pub(super) mod clock;
pub(super) mod cluster;
pub(super) mod diagnosis;
pub(super) mod hosts;
pub(super) mod inventory;
pub(super) mod peerings;
pub(super) mod rollout;
