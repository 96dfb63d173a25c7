//! `openapi.json` is what the code says.

use cps_peering_controller::api::openapi_document;

#[test]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
fn the_checked_in_document_is_that_of_the_code() {
    let said = openapi_document().to_pretty_json().unwrap();
    let checked_in = include_str!("../openapi.json");
    assert!(
        said.trim_end() == checked_in.trim_end(),
        "controller/openapi.json is not what the code says. To renew it:\n\n    \
         cargo run -p cps-peering-controller -- --openapi > controller/openapi.json\n"
    );
}
