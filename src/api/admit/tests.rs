use super::*;
use crate::trust::TokenRequest;

fn signer() -> Signer {
    Signer::beside_files(vec![7; 32])
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap())])
}

fn token(role: Role) -> HeaderMap {
    let request = TokenRequest { role: Some(role), name: Some("ann".to_owned()), seconds: 60, ..TokenRequest::default() };
    bearer(&signer().make(&request, now()).unwrap().token)
}

fn caller(identity: Option<Identity>) -> Caller {
    Caller::Tls { identity, ip: [127, 0, 0, 1].into() }
}

fn proxy() -> Caller {
    caller(Some(Identity::Proxy("p1".to_owned())))
}

fn controller() -> Caller {
    caller(Some(Identity::Controller("c1".to_owned())))
}

#[test]
fn every_path_is_for_those_who_need_it() {
    use Method as M;
    let (read, write, operate) = (Need::Operator(Role::Read), Need::Operator(Role::Write), Need::Operator(Role::Operate));
    for (method, path, wanted) in [
        (M::GET, "/livez", Need::Nothing),
        (M::GET, "/readyz", Need::Nothing),
        (M::POST, "/v1/join", Need::Nothing),
        (M::POST, "/v1/renew", Need::Program),
        (M::POST, "/v1/watch", Need::Program),
        (M::POST, "/v1/secrets", Need::Program),
        (M::GET, "/v1/secrets", Need::Program),
        (M::GET, "/v1/watch", read),
        (M::POST, "/v1/proxies/p1/report", Need::Program),
        (M::POST, "/v1/replica", Need::Controller),
        (M::POST, "/v1/relay", Need::Controller),
        (M::GET, "/v1/controller", read),
        (M::GET, "/v1/export", read),
        (M::GET, "/metrics", read),
        (M::POST, "/v1/approve", write),
        (M::POST, "/v1/hold", operate),
        (M::POST, "/v1/step-down", operate),
        (M::POST, "/v1/tokens", operate),
        // What does not exist yet is for those who may everything.
        (M::DELETE, "/v1/anything", operate),
        (M::HEAD, "/v1/status", read),
    ] {
        assert_eq!(need(&method, path), wanted, "{method} {path}");
    }
}

#[test]
fn roles_and_certificates_open_what_they_are_for_and_no_more() {
    let empty = HeaderMap::new();
    let decide = |need, caller: &Caller, headers: &HeaderMap| decide(need, caller, headers, &signer());
    let name = |asker: Result<Asker, Refused>| asker.unwrap().0;
    assert_eq!(name(decide(Need::Operator(Role::Read), &caller(None), &token(Role::Read))).unwrap(), "ann");
    assert_eq!(name(decide(Need::Operator(Role::Read), &caller(None), &token(Role::Operate))).unwrap(), "ann");
    assert_eq!(name(decide(Need::Program, &proxy(), &empty)).unwrap(), "proxy p1");
    assert_eq!(name(decide(Need::Operator(Role::Operate), &controller(), &empty)).unwrap(), "controller c1");
    assert_eq!(name(decide(Need::Operator(Role::Operate), &Caller::Plain, &empty)), None);
    let refused = |need, caller: &Caller, headers: &HeaderMap| decide(need, caller, headers).unwrap_err();
    for (need, caller, headers, status, message) in [
        (Need::Operator(Role::Read), caller(None), empty.clone(), 401, "role read"),
        (Need::Operator(Role::Read), caller(None), bearer("x"), 401, "no token"),
        (Need::Operator(Role::Write), caller(None), token(Role::Read), 403, "ann's token has the role read, and this needs write"),
        (Need::Operator(Role::Operate), caller(None), token(Role::Write), 403, "needs operate"),
        // A proxy is no operator.
        (Need::Operator(Role::Read), proxy(), empty.clone(), 401, "needs a token"),
        (Need::Controller, proxy(), token(Role::Operate), 403, "only controllers"),
        (Need::Program, caller(None), token(Role::Operate), 401, "waypost token --join"),
    ] {
        let (got, why) = refused(need, &caller, &headers);
        assert!(got.as_u16() == status && why.contains(message), "{need:?}: {got} {why}");
    }
}

#[test]
fn only_a_controller_says_for_whom_it_asks() {
    let mut headers = token(Role::Operate);
    headers.insert(CALLER_HEADER, HeaderValue::from_static("mallory"));
    let asker = |caller: &Caller| decide(Need::Operator(Role::Read), caller, &headers, &signer()).unwrap().0.unwrap();
    assert_eq!(asker(&controller()), "mallory");
    assert_eq!(asker(&caller(None)), "ann");
    assert_eq!(asker(&proxy()), "ann");
}

#[test]
fn a_proxy_speaks_under_its_own_name_only() {
    assert!(proxy().check_proxy("p1").is_ok() && controller().check_proxy("p1").is_ok() && Caller::Plain.check_proxy("p1").is_ok());
    assert!(proxy().check_proxy("p2").unwrap_err().contains("that of proxy p1, which may not speak as proxy p2"));
    assert!(proxy().check_controller("c1").is_err() && caller(None).check_proxy("p1").is_err());
    assert!(controller().check_controller("c1").is_ok() && controller().check_controller("c2").is_err());
}
