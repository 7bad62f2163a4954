//! Reads any bytes as what an agent sends and as what a coordinator sends: each is refused, or means the same once it was sent on.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::session::{AgentMessage, CoordinatorMessage};
use proto::v1;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Ok(message)) = v1::AgentMessage::decode(bytes).map(AgentMessage::try_from) {
        let sent = v1::AgentMessage::from(message).encode_to_vec();
        let heard = AgentMessage::try_from(v1::AgentMessage::decode(&*sent).unwrap()).unwrap();
        assert_eq!(sent, v1::AgentMessage::from(heard).encode_to_vec());
    }
    if let Ok(Ok(message)) = v1::CoordinatorMessage::decode(bytes).map(CoordinatorMessage::try_from) {
        let sent = v1::CoordinatorMessage::from(message).encode_to_vec();
        let heard = CoordinatorMessage::try_from(v1::CoordinatorMessage::decode(&*sent).unwrap()).unwrap();
        assert_eq!(sent, v1::CoordinatorMessage::from(heard).encode_to_vec());
    }
});
