//! Answers of machines that say of themselves what they are not.

use crate::raw::{HOST, scripted};
use crate::world::{World, backend, endpoint, full};
use http::Response;

#[tokio::test]
async fn answers_without_a_body_have_none_whatever_they_say_of_it() {
    let world = World::new().await;
    let client = world.client();
    for (number, status, head_only) in [(1, 200, true), (2, 304, false), (3, 204, false)] {
        let address = backend(&world.tasks, move |_| async move {
            let mut response = Response::builder().status(status);
            if status != 204 {
                response = response.header("content-length", "5");
            }
            response.header("etag", "\"x\"").body(full("")).unwrap()
        })
        .await;
        world.publish(vec![endpoint(number, address)]);
        let method = if head_only {
            http::Method::HEAD
        } else {
            http::Method::GET
        };
        for _ in 0..2 {
            let answer = client
                .request(method.clone(), world.url("/"))
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status().as_u16(), status);
            let length = answer.headers().get("content-length");
            match status {
                200 => assert_eq!(length.unwrap(), "5"),
                204 => assert_eq!(length, None),
                _ => {}
            }
            assert_eq!(answer.text().await.unwrap(), "", "{status}");
        }
    }
}

#[tokio::test]
async fn an_app_that_sends_more_than_its_answer_does_not_poison_the_next_one() {
    let cases: [(&str, &'static [&'static str]); 4] = [
        (
            "HEAD",
            &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"],
        ),
        (
            "HEAD",
            &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", "body"],
        ),
        (
            "GET",
            &["HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nbody"],
        ),
        (
            "GET",
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
            ],
        ),
    ];
    for (method, pieces) in cases {
        let world = World::new().await;
        scripted(&world, pieces).await;
        for _ in 0..10 {
            let request = format!("{method} / HTTP/1.1\r\n{HOST}\r\n");
            let answer = world.raw(&request).await;
            assert!(!answer.contains("poisoned"), "{method}: {answer}");
            // A connection with something left over is given up, at worst with a 502.
            assert!(
                answer.starts_with("HTTP/1.1 200")
                    || answer.starts_with("HTTP/1.1 304")
                    || answer.starts_with("HTTP/1.1 502"),
                "{method}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_none_becomes_a_502_or_is_read_in_one_way() {
    let cases: [(&'static [&'static str], &str); 6] = [
        (&["SSH-2.0-OpenSSH_9.2\r\n\r\n"], "502"),
        (
            &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc"],
            "502",
        ),
        (&["HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc"], "502"),
        (
            &["HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
            "502",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            ],
            "200",
        ),
        (
            &[
                "HTTP/1.1 200 OK\r\nConnection: X-Inner, close\r\nX-Inner: 1\r\nKeep-Alive: 5\r\nContent-Length: 2\r\n\r\nab",
            ],
            "200",
        ),
    ];
    for (pieces, status) in cases {
        let world = World::new().await;
        scripted(&world, pieces).await;
        let answer = world.raw(format!("GET / HTTP/1.1\r\n{HOST}\r\n")).await;
        assert_eq!(
            answer.split(' ').nth(1),
            Some(status),
            "{pieces:?}: {answer}"
        );
        let lower = answer.to_lowercase();
        let (has_length, has_coding) = (
            lower.contains("\r\ncontent-length:"),
            lower.contains("\r\ntransfer-encoding:"),
        );
        assert!(has_length != has_coding, "{pieces:?}: {answer}");
        assert!(
            !lower.contains("x-inner") && !lower.contains("keep-alive"),
            "{answer}"
        );
    }
}
