//! Those who are pinned stay, and are noted when they see something else.

use super::rules::{Pair, ROOMY, dialogs, users};
use super::store::{What, dialog, tenant, user};
use crate::serving::model::{LoadEnd, NotPinned, Pin, Touched};
use crate::store::commit_log::Cut;

fn pinned(pair: &mut Pair, n: usize) -> Pin {
    assert_eq!(pair.load(&users(&[n])), LoadEnd::Complete);
    pair.model.pin_user(&tenant(0), &user(n)).unwrap()
}

fn touched(pair: &mut Pair) -> Vec<u32> {
    pair.follow();
    let Touched { users, .. } = pair.model.take_touched();
    let mut users: Vec<u32> = users.into_iter().map(|(user, _)| user).collect();
    users.sort_unstable();
    users
}

#[test]
fn who_sees_something_else_is_noted_and_nobody_else() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0, 1, 2], 0);
    pair.join(&[2], 1);
    let pins = [0, 1].map(|n| pinned(&mut pair, n).number);
    assert_eq!(pair.load(&users(&[2])), LoadEnd::Complete);
    touched(&mut pair);
    pair.commit(2, 0, What::Send(0));
    assert_eq!(touched(&mut pair), pins);
    pair.commit(1, 0, What::ReadAll);
    assert_eq!(touched(&mut pair), [pins[1]]);
    // Of somebody who is held, and not pinned; and of another dialog.
    pair.commit(2, 0, What::ReadAll);
    pair.commit(2, 1, What::Send(0));
    assert_eq!(touched(&mut pair), [0; 0]);
    // The first share that there is of a dialog.
    pair.commit(0, 5, What::Join);
    assert_eq!(touched(&mut pair), [pins[0]]);
    pair.commit(0, 0, What::DeleteDialog);
    assert_eq!(touched(&mut pair), pins);
}

#[test]
fn a_dialog_is_noted_when_its_own_counters_change() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0], 0);
    assert_eq!(pair.load(&dialogs(&[0])), LoadEnd::Complete);
    let pin = pair.model.pin_dialog(&tenant(0), &dialog(0)).unwrap();
    pair.model.check();
    let noted = |pair: &mut Pair| {
        pair.follow();
        pair.model.take_touched().dialogs
    };
    noted(&mut pair);
    pair.commit(0, 0, What::ReadAll);
    assert_eq!(noted(&mut pair), [0; 0]);
    pair.commit(0, 0, What::Topic);
    assert_eq!(noted(&mut pair), [pin.number]);
    assert_eq!(pair.model.pinned_dialog(pin).topics, 1);
    pair.model.unpin_dialog(pin);
    pair.model.check();
    assert!(!pair.model.holds_dialog(pin));
}

#[test]
fn who_is_pinned_makes_no_room_and_has_half_of_it_at_most() {
    let mut pair = Pair::new(24_000);
    let everybody: Vec<usize> = (0..60).collect();
    pair.join(&everybody, 0);
    let mut pins = Vec::new();
    for n in everybody.clone() {
        pair.load(&users(&[n]));
        match pair.model.pin_user(&tenant(0), &user(n)) {
            Ok(pin) => pins.push((n, pin)),
            Err(NotPinned::NoRoom) => break,
            Err(NotPinned::NotHeld) => panic!("{n} is not held"),
        }
        pair.model.check();
    }
    assert!(pins.len() > 3 && pins.len() < 60, "{}", pins.len());
    for n in everybody {
        pair.load(&users(&[n]));
    }
    assert!(pair.model.bytes() <= 24_000);
    for (n, pin) in &pins {
        assert!(pair.model.holds_user(*pin) && pair.has(*n));
        // Once more: it takes two to let go.
        let again = pair.model.pin_user(&tenant(0), &user(*n)).unwrap();
        pair.model.unpin_user(again);
        assert!(pair.model.holds_user(*pin));
        pair.model.unpin_user(*pin);
        assert!(!pair.model.holds_user(*pin) && pair.has(*n));
        pair.model.check();
    }
    assert!(!pair.model.take_lost());
}

#[test]
fn a_pin_is_void_once_everything_is_forgotten() {
    let mut pair = Pair::new(ROOMY);
    pair.join(&[0, 1], 0);
    let pin = pinned(&mut pair, 0);
    pair.model.reset(Cut::default());
    assert!(pair.model.take_lost() && !pair.model.take_lost());
    pair.follow();
    // Somebody else has the number now.
    let other = pinned(&mut pair, 1);
    assert_eq!(pin.number, other.number);
    assert!(!pair.model.holds_user(pin) && pair.model.holds_user(other));
    pair.model.unpin_user(pin);
    assert!(pair.model.holds_user(other));
    pair.model.forget_tenant(&tenant(0));
    assert!(pair.model.take_lost() && !pair.model.holds_user(other));
    pair.model.check();
}
