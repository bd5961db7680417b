//! What holds for every input.

use std::fs;

use cache::{Component, Digest, KeyHasher, SnapshotId};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::fixture::{Fixture, commit, key, record};

/// One way to add to a table.
#[derive(Clone, Debug, PartialEq)]
enum Part {
    Field(&'static str, Vec<u8>),
    List(&'static str, Vec<Vec<u8>>),
    Map(&'static str, Vec<(Vec<u8>, Vec<u8>)>),
}

/// Short texts over few letters, so that borders collide when they can.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(b'a'), Just(b'b'), Just(0), any::<u8>()], 0..4)
}

fn part() -> impl Strategy<Value = Part> {
    let name = || prop_oneof![Just("a"), Just("b"), Just("ab")];
    prop_oneof![
        (name(), bytes()).prop_map(|(name, value)| Part::Field(name, value)),
        (name(), vec(bytes(), 0..3)).prop_map(|(name, values)| Part::List(name, values)),
        (name(), vec((bytes(), bytes()), 0..3)).prop_map(|(name, mut entries)| {
            entries.sort();
            Part::Map(name, entries)
        }),
    ]
}

fn table(parts: &[Part]) -> (cache::CacheKey, Vec<Component>) {
    let add = |table: KeyHasher, part: &Part| match part {
        Part::Field(name, value) => table.field(name, value),
        Part::List(name, values) => table.list(name, values),
        Part::Map(name, entries) => table.map(name, entries.iter().map(|(k, v)| (k, v))),
    };
    parts.iter().fold(KeyHasher::new("property", 1), add).finish_with_components()
}

proptest! {
    #[test]
    fn keys_are_equal_exactly_when_tables_are(
        one in vec(part(), 0..4),
        other in vec(part(), 0..4),
    ) {
        prop_assert_eq!(table(&one).0 == table(&other).0, one == other);
        prop_assert_eq!(table(&one), table(&one.clone()));
    }

    #[test]
    fn a_border_between_name_and_value_counts(text in "[ab]{2,8}", at in 1_usize..7) {
        let at = at.min(text.len() - 1);
        let whole = KeyHasher::new("property", 1).list("l", [&text[..]]).finish();
        let split = KeyHasher::new("property", 1).list("l", [&text[..at], &text[at..]]).finish();
        prop_assert_ne!(whole, split);
    }

    #[test]
    fn digests_are_read_as_written(bytes in any::<[u8; 32]>(), text in ".{0,80}") {
        let digest = Digest::from_bytes(bytes);
        prop_assert_eq!(Digest::parse(&digest.to_string()), Ok(digest));
        if let Ok(digest) = Digest::parse(&text) {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    #[test]
    fn a_snapshot_id_is_one_plain_name(text in ".{0,20}|[a-z0-9-]{1,20}") {
        if let Ok(id) = SnapshotId::parse(&text) {
            let mut components = std::path::Path::new(id.as_str()).components();
            prop_assert!(matches!(components.next(), Some(std::path::Component::Normal(_))));
            prop_assert!(components.next().is_none());
        }
    }

}

proptest! {
    // Each case makes a store of its own.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_a_blob_becomes_it_is_never_given_out_for_another(
        before in vec(any::<u8>(), 0..64),
        after in vec(any::<u8>(), 0..64),
    ) {
        let fixture = Fixture::new();
        let content = fixture.store.content();
        let blob = content.ingest(&before[..], 64, None).expect("a healthy store takes it");
        fs::write(content.path(&blob.digest), &after).expect("the store is ours");
        let want = (before == after).then_some(before);
        prop_assert_eq!(content.read(&blob.digest, 1024).expect("readable"), want);
    }

    #[test]
    fn any_bytes_for_a_record_are_a_miss(junk in vec(any::<u8>(), 0..512)) {
        let fixture = Fixture::new();
        let snapshot = commit(&fixture.store, None, "file");
        fixture.store.index().put(&record("one", &snapshot)).expect("a healthy store takes it");
        let hex = key("one").digest().hex();
        let path = fixture.root().join("index").join(&hex[..2]).join(hex);
        fs::write(path, junk).expect("the store is ours");
        prop_assert_eq!(fixture.store.index().get(&key("one")), None);
    }
}
