//! Which of several credentials decides.

use super::*;

const CERTIFIED: Shown<'_> = Shown {
    authorization: None,
    certificate: Some(b"not looked at where certificates are not taken"),
};

fn shown(header: &'static str) -> Shown<'static> {
    Shown {
        authorization: Some(header.as_bytes()),
        ..CERTIFIED
    }
}

fn asks_for_tokens() -> Authenticator {
    let digest = digest_hex("secret");
    let tokens = Tokens::parse(&format!(
        "[[token]]\nname = \"x\"\nsha256 = \"{digest}\"\nroles = []\ntenants = []"
    ));
    Authenticator {
        tokens: Some(Reloaded::of(tokens.unwrap())),
        ..Authenticator::default()
    }
}

#[test]
fn where_nobody_is_asked_everybody_is_anonymous() {
    let open = Authenticator::open();
    for shown in [
        Shown::default(),
        CERTIFIED,
        shown("Bearer x"),
        shown("junk"),
    ] {
        let identity = open.identify(shown, SystemTime::now()).unwrap();
        assert!(identity.is_anonymous() && identity.reads_bodies());
    }
}

#[test]
fn what_is_not_taken_is_as_good_as_nothing() {
    let missing = Refusal::NoCredentials("authorization: Bearer TOKEN");
    let tokens = asks_for_tokens();
    let asked = |shown| tokens.identify(shown, SystemTime::now());
    assert_eq!(asked(Shown::default()), Err(missing.clone()));
    assert_eq!(asked(CERTIFIED), Err(missing));
    assert_eq!(asked(shown("Bearer secret")).unwrap().name(), "token:x");
    assert_eq!(asked(shown("Bearer a.b.c")), Err(Refusal::UnknownToken));
    assert_eq!(asked(shown("Basic secret")), Err(Refusal::NotBearer));
    let nothing = Authenticator::default();
    let refused = nothing.identify(shown("Bearer secret"), SystemTime::now());
    assert!(matches!(refused, Err(Refusal::NoCredentials(_))));
}

#[test]
fn a_token_that_is_not_good_is_not_made_up_for_by_a_certificate() {
    let both = Authenticator {
        certificates: Some(Reloaded::of(Certificates::parse("").unwrap())),
        ..asks_for_tokens()
    };
    let refused = both.identify(shown("Bearer wrong"), SystemTime::now());
    assert_eq!(refused, Err(Refusal::UnknownToken));
    let refused = both.identify(CERTIFIED, SystemTime::now());
    assert!(matches!(refused, Err(Refusal::NotAnIdentity(_))));
}
