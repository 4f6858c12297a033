//! Images whose program is their own.

use serde_json::json;
use serverledge_sandbox::{CallError, Exit, Shim};

use super::engine::machine;
use super::image::lambda_image;
use crate::harness::{call, invoke};

#[tokio::test]
async fn an_image_with_a_server_of_its_own_is_called() {
    let machine = machine().await;
    let mut spec = machine.own();
    spec.slots = 2;
    let sandbox = machine.0.create(spec).await.unwrap();
    let mut asked = call(json!({"x": 1}));
    asked.output = true;
    let reply = sandbox.invoke(asked).await.unwrap();
    assert_eq!(reply.output, "said");
    let result: serde_json::Value = serde_json::from_slice(&reply.outcome.unwrap()).unwrap();
    let [result, asked] = result.as_array().unwrap().as_slice() else {
        panic!("{result}");
    };
    assert_eq!(result["params"], json!({"x": 1}));
    assert!(result["uid"].as_u64().unwrap() >= 0x7000_0000, "{result}");
    assert_eq!(
        *asked,
        json!({"Command": null, "Handler": "", "HandlerDir": "", "ReturnOutput": true})
    );
    let failed = invoke(&sandbox, json!({"fail": "why"})).await.unwrap();
    let message = failed.unwrap_err().message;
    assert!(message.contains("ValueError('why')"), "{message}");
    // As many calls at once as there are slots.
    let one = || invoke(&sandbox, json!({"sleep": 0.3}));
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert!(a.unwrap().is_ok() && b.unwrap().is_ok());
    assert!(matches!(c, Err(CallError::Protocol(_))), "{c:?}");
    let wrong = invoke(&sandbox, json!({"raw": "<html>"})).await.unwrap();
    assert_eq!(wrong.unwrap_err().kind, "ProtocolError");
    match invoke(&sandbox, json!({"exit": 5, "print": "bye"})).await {
        Err(CallError::Died(cause)) => {
            assert_eq!(cause.exit, Exit::Code(5));
            assert!(cause.last_output.contains("bye\n"), "{cause}");
        }
        other => panic!("{other:?}"),
    }
    machine.0.backend.shutdown().await;
    assert_eq!(machine.containers(), Vec::<String>::new());
}

#[tokio::test]
async fn code_that_is_given_to_an_image_is_told() {
    let machine = machine().await;
    let mut spec = machine.spec("def handler(p, c): pass");
    spec.shim = Some(Shim::Bridge);
    let sandbox = machine.0.create(spec).await.unwrap();
    let result = invoke(&sandbox, json!({})).await.unwrap().unwrap();
    assert_eq!(result[1]["Handler"], "f.handler", "{result}");
    assert_eq!(result[1]["HandlerDir"], "/app", "{result}");
    machine.0.backend.shutdown().await;
}

#[tokio::test]
async fn an_image_for_lambda_gets_events() {
    let machine = machine().await;
    let mut spec = machine.own();
    spec.image = Some(lambda_image().to_owned());
    let sandbox = machine.0.create(spec).await.unwrap();
    for n in 0..2 {
        let mut result = invoke(&sandbox, json!({"n": n})).await.unwrap().unwrap();
        assert!(result["uid"].take().as_u64().unwrap() >= 0x7000_0000);
        let expected = json!({"event": {"n": n}, "handler": "f.handler", "uid": null});
        assert_eq!(result, expected);
    }
    machine.0.backend.shutdown().await;
}

#[tokio::test]
async fn without_a_network_there_is_only_itself() {
    let machine = machine().await;
    let sandbox = machine.0.create(machine.own()).await.unwrap();
    let connects = async |host: &str, port: u16| {
        let asked = json!({"connect": [host, port]});
        invoke(&sandbox, asked).await.unwrap().unwrap()[0] == json!(true)
    };
    assert!(connects("127.0.0.1", 8080).await, "to itself");
    assert!(!connects("192.0.2.1", 80).await, "outside");
    machine.0.backend.shutdown().await;
}
