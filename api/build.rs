//! Links the program at a fixed address, as Go's builders are.
//!
//! Each build starts it twice, for itself and for its sandboxes, which fork. At an address that is
//! chosen at the start the loader writes 23,000 pointers into a hundred pages, which every fork then
//! copies the tables of: 16 small builds at once take 7 % longer. Heap, stacks and libraries lie at
//! random addresses all the same.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A static program is linked from other parts, which `-no-pie` does not go with.
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo::rustc-link-arg-bin=rbuild=-no-pie");
    }
}
