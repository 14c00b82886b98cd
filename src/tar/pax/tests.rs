use super::*;

#[test]
fn times_go_both_ways() {
    for (text, seconds, nanoseconds) in [
        ("0", 0, 0),
        ("1", 1, 0),
        ("-1", -1, 0),
        ("1.5", 1, 500_000_000),
        ("-0.25", -1, 750_000_000),
        ("-1.000000001", -2, 999_999_999),
        ("0.000000001", 0, 1),
        ("9223372036854775807.999999999", i64::MAX, 999_999_999),
        ("-9223372036854775807.999999999", i64::MIN, 1),
        ("-9223372036854775808", i64::MIN, 0),
    ] {
        let time = Timestamp { seconds, nanoseconds };
        assert_eq!(timestamp(text.as_bytes()).unwrap(), time, "{text}");
        assert_eq!(format_time(time), text);
    }
}
