use std::time::Duration;

use super::*;
use crate::{SessionError, SessionGroup, names};

const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_session_may_arrive_after_it_is_asked_for() {
    let mut world = World::new();
    let client = ClientSession::builder().name("someone").shared_key("key").build();
    let (manager, id) = (world.manager.clone(), format!("vertex:{}", client.id()));
    let waiting = tokio::spawn(async move { manager.get(&id, Some(SOON)).await });
    tokio::task::yield_now().await;
    world.connect(client);
    let session = waiting.await.unwrap().unwrap();
    assert_eq!((session.name(), session.shared_key()), ("someone", "key"));
    assert!(session.supports("/grpc.health.v1.health/CHECK") && !session.supports(names::SECRETS_GET));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let manager = SessionManager::new();
    assert!(matches!(manager.get("nobody", None).await, Err(SessionError::NotFound { .. })));
    let short = Some(Duration::from_millis(20));
    assert!(matches!(manager.get("nobody", short).await, Err(SessionError::NotFound { .. })));
    assert!(matches!(manager.any(&SessionGroup::new()).await, Err(SessionError::NoSession)));
}

#[tokio::test]
async fn an_id_can_be_had_once_and_again_after_its_end() {
    let mut world = World::new();
    let client = || ClientSession::builder().id("same").build();
    let first = world.session(client()).await;
    world.connect(client());
    let refused = world.clients.join_next().await.unwrap().unwrap();
    assert!(matches!(refused, Err(SessionError::Exists { .. })), "{refused:?}");
    first.close();
    world.clients.join_next().await.unwrap().unwrap().unwrap();
    assert!(!world.session(client()).await.is_closed());
}

#[tokio::test]
async fn malformed_ids_are_refused() {
    for id in ["", "../x", "a b"] {
        let mut map = tonic::metadata::MetadataMap::new();
        crate::metadata::append_one(&mut map, names::SESSION_ID, id).unwrap();
        assert!(matches!(Registration::from_metadata(&map), Err(SessionError::Invalid { .. })), "{id}");
    }
}

#[tokio::test]
async fn closing_at_either_end_ends_both_and_what_is_in_flight() {
    for daemon_closes in [true, false] {
        let mut world = World::new();
        let client = ClientSession::builder().build();
        let session = world.session(client.clone()).await;
        let blocked = session.clone();
        let call = tokio::spawn(async move { blocked.until_closed::<()>(std::future::pending()).await });
        if daemon_closes {
            session.close()
        } else {
            client.close()
        }
        assert!(matches!(call.await.unwrap(), Err(SessionError::Closed { .. })));
        world.clients.join_next().await.unwrap().unwrap().unwrap();
        assert!(session.is_closed());
        world.manager.shutdown().await;
        assert!(world.manager.ids().is_empty());
    }
}

#[tokio::test]
async fn a_client_that_disappears_takes_its_session_along() {
    let mut world = World::new();
    let session = world.session(ClientSession::builder().build()).await;
    world.clients.abort_all();
    tokio::time::timeout(SOON, session.closed()).await.unwrap();
}

#[tokio::test]
async fn a_client_that_never_answers_is_dropped() {
    let manager = SessionManager::new();
    let registration = Registration {
        id: "silent".into(),
        health_timeout: Some(Duration::from_millis(1)),
        ..Registration::default()
    };
    let silent = futures::stream::pending();
    let _bytes = manager.accept(registration, silent).unwrap();
    let session = manager.get("silent", None).await.unwrap();
    tokio::time::timeout(SOON, session.closed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_is_asked_for_its_health_after_the_first_interval_only() {
    let manager = SessionManager::new();
    let wish = Duration::from_secs(7);
    let registration =
        Registration { id: "brief".into(), health_timeout: Some(wish), ..Registration::default() };
    let mut bytes = manager.accept(registration, futures::stream::pending()).unwrap();
    let (start, mut sent) = (tokio::time::Instant::now(), Vec::new());
    // The connection preface is no frame; HEADERS (type 1) carry the first call.
    let first_call = loop {
        let mut rest = sent.get(24..).unwrap_or_default();
        let mut kinds = Vec::new();
        while let [a, b, c, kind, ..] = rest {
            kinds.push(*kind);
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            rest = rest.get(9 + length..).unwrap_or_default();
        }
        if kinds.contains(&1) {
            break start.elapsed();
        }
        sent.extend(bytes.next().await.unwrap().unwrap().data);
    };
    assert!(first_call >= wish, "{first_call:?}");
}

#[tokio::test]
async fn garbage_on_the_stream_ends_the_session() {
    let manager = SessionManager::new();
    let registration = Registration {
        id: "garbage".into(),
        health_timeout: Some(Duration::from_secs(1)),
        ..Registration::default()
    };
    let garbage = futures::stream::iter([Ok(BytesMessage { data: vec![0xff; 100_000].into() })]);
    let mut bytes = manager.accept(registration, garbage.chain(futures::stream::pending())).unwrap();
    let end = async { while bytes.next().await.is_some() {} };
    tokio::time::timeout(SOON, end).await.unwrap();
}

#[tokio::test]
async fn a_group_is_served_by_whoever_is_there() {
    let mut world = World::new();
    let group = SessionGroup::of("gone");
    let late = ClientSession::builder().build();
    let (manager, asked) = (world.manager.clone(), group.clone());
    let waiting = tokio::spawn(async move { manager.any(&asked).await });
    tokio::task::yield_now().await;
    group.add(late.id());
    let session = world.session(late).await;
    assert_eq!(waiting.await.unwrap().unwrap().id(), session.id());
}
