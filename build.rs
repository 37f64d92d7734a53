//! Generates the gRPC messages, client and server from `proto/`, without
//! protoc.

use std::path::PathBuf;

/// Messages that are shown as JSON, and the times in them.
const SHOWN: &[&str] = &[
    "UserStats",
    "UserDialogStats",
    "DialogStats",
    "MessageStats",
    "UserUpdate",
    "BatchGetUserStatsResponse",
    "BatchGetDialogStatsResponse",
    "BatchGetMessageStatsResponse",
    "ListUserDialogStatsResponse",
    "WatchUserStatsResponse",
    "WatchDialogStatsResponse",
];
/// Messages that the command line prints as JSON.
const PRINTED: &[&str] = &[
    "CounterDifference",
    "CounterHistoryEntry",
    "DeadLetter",
    "DeadLetterFailure",
    "DeadLetterGroup",
    "DeadLetterJob",
    "EditDeadLetterResponse",
    "IndexState",
    "JobProgress",
    "ListDeadLetterGroupsResponse",
    "ListDeadLettersResponse",
    "ReplayPlan",
    "ReplayFailure",
    "CounterTotal",
    "CounterChange",
    "SyncDeadLettersResponse",
];
/// Times in printed messages: `null` where there is none.
const PRINTED_TIMES: &[&str] = &[
    "applied_at",
    "discarded_at",
    "finished_at",
    "first_failed_at",
    "first_seen_at",
    "last_failed_at",
    "last_seen_at",
    "occurred_at",
    "started_at",
];
/// Fields of printed messages that are not printed, or in another form.
const NOT_PRINTED: &[&str] = &[
    "DeadLetterJob.letter_id",
    "DeadLetterJob.body_before",
    "DeadLetterJob.body_after",
    "JobProgress.examined",
    "JobProgress.braking",
    "ListDeadLettersResponse.next_page_token",
];
/// Fields of printed messages that are left out where they are empty.
const PRINTED_IF_SET: &[&str] = &["CounterDifference.message_id", "CounterDifference.user_id"];
/// Messages that are the body of a request, but for the tenant, which is in its
/// path.
const POSTED: &[&str] = &[
    "BatchGetUserStatsRequest",
    "BatchGetDialogStatsRequest",
    "BatchGetMessageStatsRequest",
];
const TIMES: &[&str] = &[
    "as_of",
    "joined_at",
    "last_message_at",
    "read_until",
    "updated_at",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler
        .include_source_info(true)
        .include_imports(true)
        .open_files([
            "chatcounters/v1/counter_service.proto",
            "chatcounters/v1/dead_letter_service.proto",
            "chatcounters/v1/maintenance_service.proto",
        ])?;
    // For reflection.
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(
        out.join("chatcounters_descriptor.bin"),
        compiler.encode_file_descriptor_set(),
    )?;
    let mut generated = tonic_prost_build::configure().btree_map(".");
    for message in SHOWN {
        let path = format!("chatcounters.v1.{message}");
        generated = generated.type_attribute(&path, "#[derive(serde::Serialize)]");
        for time in TIMES {
            let show = "#[serde(serialize_with = \"crate::grpc::time\", skip_serializing_if = \"Option::is_none\")]";
            generated = generated.field_attribute(format!("{path}.{time}"), show);
        }
    }
    for message in PRINTED {
        let path = format!("chatcounters.v1.{message}");
        generated = generated.type_attribute(&path, "#[derive(serde::Serialize)]");
        for time in PRINTED_TIMES {
            let show = "#[serde(serialize_with = \"crate::grpc::moment_or_null\")]";
            generated = generated.field_attribute(format!("{path}.{time}"), show);
        }
    }
    for field in NOT_PRINTED {
        let path = format!("chatcounters.v1.{field}");
        generated = generated.field_attribute(path, "#[serde(skip)]");
    }
    for field in PRINTED_IF_SET {
        let path = format!("chatcounters.v1.{field}");
        let show = "#[serde(skip_serializing_if = \"String::is_empty\")]";
        generated = generated.field_attribute(path, show);
    }
    for message in POSTED {
        let path = format!("chatcounters.v1.{message}");
        let read = "#[derive(serde::Deserialize)] #[serde(deny_unknown_fields)]";
        generated = generated
            .type_attribute(&path, read)
            .field_attribute(format!("{path}.tenant_id"), "#[serde(skip)]");
    }
    generated.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
