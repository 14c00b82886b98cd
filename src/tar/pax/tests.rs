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
        ("10.1", 10, 100_000_000),
        ("1700000000.123456789", 1_700_000_000, 123_456_789),
        ("9223372036854775807.999999999", i64::MAX, 999_999_999),
        ("-9223372036854775807.999999999", i64::MIN, 1),
        ("-9223372036854775808", i64::MIN, 0),
    ] {
        let time = Timestamp { seconds, nanoseconds };
        assert_eq!(timestamp(text.as_bytes()).unwrap(), time, "{text}");
        assert_eq!(format_time(time), text);
    }
}

#[test]
fn what_is_finer_than_a_nanosecond_is_cut_off() {
    for (text, seconds, nanoseconds) in
        [("1.", 1, 0), ("01.50", 1, 500_000_000), ("1.0000000019", 1, 1), ("-1.0000000009", -1, 0), ("-0", 0, 0), ("-0.0", 0, 0)]
    {
        assert_eq!(timestamp(text.as_bytes()).unwrap(), Timestamp { seconds, nanoseconds }, "{text}");
    }
}

/// The length counts its own digits: at some lengths one digit more makes it two bytes longer.
#[test]
fn record_lengths_are_right_at_every_digit_boundary() {
    for value in (0..120).chain(960..1040).chain(9_960..10_040).chain(99_960..100_040) {
        let value = vec![b'v'; value];
        let mut body = Vec::new();
        write_record(&mut body, b"k", &value);
        let text = body.iter().position(|&byte| byte == b' ').unwrap();
        let declared: usize = std::str::from_utf8(&body[..text]).unwrap().parse().unwrap();
        assert_eq!(declared, body.len());
        assert_eq!(record(&body).unwrap(), (b"k".as_slice(), value.as_slice(), b"".as_slice()));
    }
    let mut body = Vec::new();
    write_record(&mut body, b"a", b"12345");
    assert_eq!(body, b"11 a=12345\n", "9 without the length, 10 with one digit, 11 with two");
}
