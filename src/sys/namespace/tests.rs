use super::*;
use crate::sys::test_support::{Child, is_root, skip};

#[test]
fn a_user_is_found_by_number_in_passwd() {
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nbuild:x:1000:100::/home/build:/bin/sh\n";
    assert_eq!(user_name(passwd, 1000).unwrap(), b"build");
    assert_eq!(user_name(passwd, 100), None);
}

#[test]
fn sub_ids_are_those_of_the_name_or_number_behind_each_other() {
    let text = b"build:100000:65536\nother:300000:65536\n# comment\n1000:200000:10\nbuild:broken\nbuild:4294967295:10\n";
    let map = sub_ids(text, 1000, Some(b"build"));
    assert_eq!(
        map.ranges(),
        [IdRange { inside: 1, outside: 100_000, count: 65_536 }, IdRange { inside: 65_537, outside: 200_000, count: 10 }]
    );
    assert_eq!(sub_ids(text, 7, None).count(), 0);
}

#[test]
fn a_range_that_is_listed_twice_is_taken_once() {
    assert_eq!(sub_ids(b"a:100000:65536\n1:100000:65536\na:120000:5\n", 1, Some(b"a")).count(), 65_536);
}

#[test]
fn a_process_with_threads_is_refused_and_stays_where_it_is() {
    // The test harness runs this on a second thread.
    let before = is_initial();
    let error = enter_user_namespace().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(is_initial(), before);
}

#[test]
fn an_ordinary_user_without_sub_ids_becomes_root_of_one_id() {
    let child = Child { user: Some(65_534), sub_ids: Some(("", "")) };
    if !is_root() {
        return skip("an_ordinary_user_without_sub_ids", "needs root, to become a user without sub-ids");
    }
    let found = child.run(|| {
        let entered = enter_user_namespace().map_err(|error| format!("{error:?}"))?;
        let maps = IdMaps::current().map_err(|error| error.to_string())?;
        let one = matches!(entered.ids, HeldIds::One { .. });
        Ok(format!("{one} {} {} {:?}", is_initial(), rustix::process::geteuid().as_raw(), maps.uids.ranges()))
    });
    assert_eq!(found.unwrap(), "true false 0 [IdRange { inside: 0, outside: 65534, count: 1 }]");
}

#[test]
fn sub_ids_are_mapped_where_the_system_gives_some() {
    if program("newuidmap").is_none() || !is_root() {
        return skip("sub_ids_are_mapped_where_the_system_gives_some", "needs root and newuidmap");
    }
    let child = Child { user: Some(65_534), sub_ids: Some(("nobody:500000:65536\n", "65534:700000:1000\n")) };
    let found = child.run(|| {
        let entered = enter_user_namespace().map_err(|error| format!("{error:?}"))?;
        let maps = IdMaps::current().map_err(|error| error.to_string())?;
        Ok(format!("{} {:?} {:?}", entered.ids, maps.uids.to_outside(1000), maps.gids.to_outside(1)))
    });
    assert_eq!(found.unwrap(), "65537 uids and 1001 gids Some(500999) Some(700000)");
}

#[test]
fn a_group_map_that_is_refused_leaves_one_group_and_all_users() {
    if program("newuidmap").is_none() || !is_root() {
        return skip("a_group_map_that_is_refused_leaves_one_group_and_all_users", "needs root and newuidmap");
    }
    // The user's own group twice: the kernel refuses that.
    let child = Child { user: Some(65_534), sub_ids: Some(("nobody:500000:65536\n", "nobody:65534:1\n")) };
    let found = child.run(|| {
        let entered = enter_user_namespace().map_err(|error| format!("{error:?}"))?;
        let maps = IdMaps::current().map_err(|error| error.to_string())?;
        Ok(format!("{} {:?}", entered.ids, maps.gids.ranges()))
    });
    assert_eq!(found.unwrap(), "65537 uids and 1 gids [IdRange { inside: 0, outside: 65534, count: 1 }]");
}

#[test]
fn sub_ids_that_the_kernel_refuses_leave_one_id_and_the_reason() {
    if program("newuidmap").is_none() || !is_root() {
        return skip("sub_ids_that_the_kernel_refuses_leave_one_id_and_the_reason", "needs root and newuidmap");
    }
    let child = Child { user: Some(65_534), sub_ids: Some(("nobody:65534:1\n", "nobody:65534:1\n")) };
    let found = child.run(|| enter_user_namespace().map(|entered| entered.ids.to_string()).map_err(|error| format!("{error:?}")));
    let found = found.unwrap();
    assert!(found.starts_with("one id (") && found.contains("newuidmap"), "{found}");
}
