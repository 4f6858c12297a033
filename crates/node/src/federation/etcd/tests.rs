//! What is asked of etcd's gateway, and what its answers mean.

use super::*;

#[test]
fn a_prefix_ends_before_the_next_key() {
    assert_eq!(after("/function/"), b"/function0");
}

#[test]
fn an_entry_without_value_is_read() {
    let entry: Entry = serde_json::from_str(r#"{"key":"YS9i","mod_revision":"2"}"#).unwrap();
    let expected = Entry {
        key: "a/b".into(),
        value: Vec::new(),
        revision: 2,
    };
    assert_eq!(entry, expected);
}

#[test]
fn a_refusal_is_told_in_etcds_words() {
    let body = br#"{"error":"etcdserver: requested lease not found","code":5}"#;
    let refused = read::<Done>("e:1", StatusCode::NOT_FOUND, body).map(|_| ());
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("lease not found"), "{text}");
}
