//! What logins and refreshes cost.

use super::*;

/// `cargo test --release --lib measure -- --ignored --nocapture` prints what logins and refreshes cost on two workers.
#[test]
#[ignore = "a measurement"]
fn measure() {
    use std::time::Instant;
    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }
    let hash = PasswordHash(hash_password("wonderland").into());
    let pool = passwords::HashPool::new();
    let begin = Instant::now();
    runtime().block_on(async {
        for _ in 0..10 {
            assert_eq!(pool.verify(&hash, "wonderland").await, Ok(true));
        }
    });
    println!("argon2id m=19456 t=2 p=1: {:.1} ms", begin.elapsed().as_secs_f64() * 100.0);
    for algorithm in [Algorithm::Rs256, Algorithm::Es256] {
        let folder = tempfile::tempdir_in(".").unwrap();
        let clock = Clock::system();
        let store = store::Settings::Embedded { path: folder.path().to_owned() };
        let store = Store::open(&store, clock.clone()).unwrap();
        let mut settings = settings();
        settings.signing_algorithm = algorithm;
        let UserSource::File(users) = &mut settings.users[0];
        users[0].password = UserPassword::Hash(hash.clone());
        let metrics = Metrics::new();
        let start = AuthorizationServer::start(settings, store.clone(), clock.clone(), &metrics);
        let bench = Bench { server: runtime().block_on(start).unwrap(), store, clock, metrics };
        for (what, families, each) in
            [("logins", 16, 4), ("refreshes, one family", 1, 300), ("refreshes, 128", 128, 30)]
        {
            let logins = what == "logins";
            let worker = |n: u32| {
                let bench = &bench;
                runtime().block_on(async move {
                    let own = (0..families).filter(|family| family % 2 == n);
                    let tokens = own.map(|_| bench.login("read+offline_access"));
                    let tokens = futures_join(tokens).await;
                    let begin = Instant::now();
                    let runs = tokens.into_iter().map(|answer| async move {
                        let mut token = answer.text("refresh_token");
                        for _ in 0..each {
                            let answer = if logins {
                                bench.login("read+offline_access").await
                            } else {
                                bench.refresh(&token).await
                            };
                            token = answer.text("refresh_token");
                            assert!(!token.is_empty());
                        }
                    });
                    futures_join(runs).await;
                    begin.elapsed()
                })
            };
            let slowest = std::thread::scope(|scope| {
                let other = scope.spawn(|| worker(1));
                worker(0).max(other.join().unwrap())
            });
            println!("{} {what}: {:.0}/s", algorithm.name(), f64::from(families * each) / slowest.as_secs_f64());
        }
    }
}
