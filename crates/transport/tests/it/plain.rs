//! Plain requests (transport §17.1).

use peerage_transport::Service;

use crate::kit::{Node, PATH, Reply, no_headers, nodes, proxy, text};

#[tokio::test]
async fn t005_the_advertisement_is_asked_for_and_returned_byte_for_byte() {
    let node = Node::fixed(Reply::new(200, "mock refs response")).await;
    let body = text(proxy(nodes(&[&node.url])).info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(body, "mock refs response");
    let hit = &node.hits.all()[0];
    assert_eq!(
        (hit.method.as_str(), hit.target.as_str()),
        ("GET", "/et/owner/repo/info/refs?service=git-upload-pack")
    );
}

#[tokio::test]
async fn t006_a_post_is_sent_with_its_type_and_its_answer_returned() {
    let node = Node::fixed(Reply::new(200, "echo")).await;
    let proxy = proxy(nodes(&[&node.url]));
    let body = text(proxy.service_rpc(Service::UploadPack, "body", no_headers()).await).await.unwrap();
    assert_eq!(body, "echo");
    let hit = &node.hits.all()[0];
    assert_eq!((hit.method.as_str(), hit.target.clone()), ("POST", format!("{PATH}/git-upload-pack")));
    assert_eq!(hit.header("content-type"), Some("application/x-git-upload-pack-request"));
    assert_eq!(hit.header("content-length"), Some("4"));
    assert_eq!(hit.body, b"body");
}
