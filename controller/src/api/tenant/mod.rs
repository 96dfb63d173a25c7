//! The tenants' API, in the dialect of JD Cloud's services `vpc` and `cps`, with a few calls of our own.

pub(super) mod account;
pub(super) mod metering;
pub(super) mod peerings;
pub(super) mod vpcs;
