//! BuildKit's 22 rules as they are told. Summaries are BuildKit's own words: programs show them.

use super::rule::{Origin, Rule};
use super::{
    CONSISTENT_INSTRUCTION_CASING, COPY_IGNORED_FILE, DUPLICATE_STAGE_NAME, EXPOSE_INVALID_FORMAT,
    EXPOSE_PROTO_CASING, FROM_AS_CASING, FROM_PLATFORM_FLAG_CONST, INVALID_BASE_IMAGE_PLATFORM,
    INVALID_DEFAULT_ARG_IN_FROM, INVALID_DEFINITION_DESCRIPTION, JSON_ARGS_RECOMMENDED,
    LEGACY_KEY_VALUE_FORMAT, MAINTAINER_DEPRECATED, MULTIPLE_INSTRUCTIONS, NO_EMPTY_CONTINUATION,
    REDUNDANT_TARGET_PLATFORM, RESERVED_STAGE_NAME, SECRETS_IN_ARG_OR_ENV, STAGE_NAME_CASING,
    UNDEFINED_ARG_IN_FROM, UNDEFINED_VAR, WORKDIR_RELATIVE_PATH,
};

/// In alphabetical order.
pub(super) const RULES: &[Rule] = &[
    Rule {
        name: CONSISTENT_INSTRUCTION_CASING,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "All commands within the Dockerfile should use the same casing (either upper or lower)",
        why: "Keywords mean the same in any letter case. One case throughout lets the eye find the \
              instructions among the text of commands.",
        before: "FROM alpine:3.20\nrun apk upgrade\nCOPY a /a\n",
        after: "FROM alpine:3.20\nRUN apk upgrade\nCOPY a /a\n",
        is_mendable: true,
    },
    Rule {
        name: COPY_IGNORED_FILE,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Attempting to Copy file that is excluded by .dockerignore",
        why: "What the ignore file leaves out never reaches the build, so the instruction fails or \
              copies less than it says. Here `.dockerignore` holds the line `*.log`.",
        before: "FROM alpine:3.20\nCOPY first.log /\n",
        after: "FROM alpine:3.20\nCOPY first.txt /\n",
        is_mendable: false,
    },
    Rule {
        name: DUPLICATE_STAGE_NAME,
        aliases: &["DL3024"],
        origin: Origin::BuildKit,
        summary: "Stage names should be unique",
        why: "Of two stages of one name only the later can be built or copied from by that name, \
              and which one an instruction in between means is a riddle.",
        before: "FROM alpine:3.20 AS base\nFROM debian:12 AS base\n",
        after: "FROM alpine:3.20 AS base\nFROM debian:12 AS tools\n",
        is_mendable: false,
    },
    Rule {
        name: EXPOSE_INVALID_FORMAT,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release",
        why: "EXPOSE tells which ports of the container are listened on. Address and port of the \
              host are chosen when a container starts; here they are dropped without a word.",
        before: "FROM alpine:3.20\nEXPOSE 127.0.0.1:8080:80\n",
        after: "FROM alpine:3.20\nEXPOSE 80\n",
        is_mendable: true,
    },
    Rule {
        name: EXPOSE_PROTO_CASING,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Protocol in EXPOSE instruction should be lowercase",
        why: "The image's config has protocols in lower case, and not every tool that reads \
              Dockerfiles takes them otherwise.",
        before: "FROM alpine:3.20\nEXPOSE 53/UDP\n",
        after: "FROM alpine:3.20\nEXPOSE 53/udp\n",
        is_mendable: true,
    },
    Rule {
        name: FROM_AS_CASING,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "The 'as' keyword should match the case of the 'from' keyword",
        why: "`FROM` and `AS` belong together, and read as such when they look alike.",
        before: "FROM alpine:3.20 as base\n",
        after: "FROM alpine:3.20 AS base\n",
        is_mendable: true,
    },
    Rule {
        name: FROM_PLATFORM_FLAG_CONST,
        aliases: &["DL3029"],
        origin: Origin::BuildKit,
        summary: "FROM --platform flag should not use a constant value",
        why: "A constant platform in the file wins over the one that is asked for, so the build for \
              any other platform gets this one's programs. Leave it out, use a variable such as \
              `$BUILDPLATFORM`, or say in the stage's name that it is for one platform only.",
        before: "FROM --platform=linux/amd64 alpine:3.20\n",
        after: "FROM --platform=linux/amd64 alpine:3.20 AS amd64-tools\n",
        is_mendable: false,
    },
    Rule {
        name: INVALID_BASE_IMAGE_PLATFORM,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Base image platform does not match expected target platform",
        why: "Programs of another processor do not run, or run slowly in an emulator. The image has \
              no variant for the platform that is built for, or one was pinned by its digest.",
        before: "FROM example/arm64-only:1\n",
        after: "FROM example/many:1\n",
        is_mendable: false,
    },
    Rule {
        name: INVALID_DEFAULT_ARG_IN_FROM,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Default value for global ARG results in an empty or invalid base image name",
        why: "A file should build without arguments: give the ARG a default that works, or the \
              substitution one (`${TAG:-3.20}`).",
        before: "ARG TAG\nFROM alpine:$TAG\n",
        after: "ARG TAG=3.20\nFROM alpine:$TAG\n",
        is_mendable: false,
    },
    Rule {
        name: INVALID_DEFINITION_DESCRIPTION,
        aliases: &[],
        origin: Origin::Experimental,
        summary: "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment.",
        why: "A comment right above an ARG or a named FROM that begins with its name is shown as its \
              description by `--call=outline` and `--call=targets`.",
        before: "# check=experimental=InvalidDefinitionDescription\nFROM alpine:3.20\n# which release\nARG VERSION=1\n",
        after: "# check=experimental=InvalidDefinitionDescription\nFROM alpine:3.20\n# VERSION which release\nARG VERSION=1\n",
        is_mendable: false,
    },
    Rule {
        name: JSON_ARGS_RECOMMENDED,
        aliases: &["DL3025"],
        origin: Origin::BuildKit,
        summary: "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals",
        why: "The shell form starts a shell, which starts the program. The shell is then process 1: \
              it gets the signal to stop and does not pass it on, so the container is killed after \
              the grace period instead of ending cleanly. Where a shell is wanted, say so with SHELL.",
        before: "FROM alpine:3.20\nCMD httpd -f\n",
        after: "FROM alpine:3.20\nCMD [\"httpd\", \"-f\"]\n",
        is_mendable: true,
    },
    Rule {
        name: LEGACY_KEY_VALUE_FORMAT,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Legacy key/value format with whitespace separator should not be used",
        why: "The old form takes one name only and the rest of the line as its value, so a second \
              `NAME=VALUE` silently becomes text. The form with `=` says where a value ends.",
        before: "FROM alpine:3.20\nENV MODE fast and loose\n",
        after: "FROM alpine:3.20\nENV MODE=\"fast and loose\"\n",
        is_mendable: true,
    },
    Rule {
        name: MAINTAINER_DEPRECATED,
        aliases: &["DL4000"],
        origin: Origin::BuildKit,
        summary: "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
        why: "Labels can be read, listed and filtered by every tool, and hold more than one author.",
        before: "FROM alpine:3.20\nMAINTAINER Ada <ada@example.org>\n",
        after: "FROM alpine:3.20\nLABEL org.opencontainers.image.authors=\"Ada <ada@example.org>\"\n",
        is_mendable: true,
    },
    Rule {
        name: MULTIPLE_INSTRUCTIONS,
        aliases: &["DL4003", "DL4004", "DL3012"],
        origin: Origin::BuildKit,
        summary: "Multiple instructions of the same type should not be used in the same stage",
        why: "Of several CMD, ENTRYPOINT or HEALTHCHECK in a stage only the last counts. The earlier \
              ones mislead whoever reads the file.",
        before: "FROM alpine:3.20\nCMD [\"a\"]\nCMD [\"b\"]\n",
        after: "FROM alpine:3.20\nCMD [\"b\"]\n",
        is_mendable: false,
    },
    Rule {
        name: NO_EMPTY_CONTINUATION,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Empty continuation lines will become errors in a future release",
        why: "An empty line looks like the end of an instruction, but within a continued one it is \
              skipped. A comment line can part the lines instead.",
        before: "FROM alpine:3.20\nRUN echo a && \\\n\n    echo b\n",
        after: "FROM alpine:3.20\nRUN echo a && \\\n    echo b\n",
        is_mendable: true,
    },
    Rule {
        name: REDUNDANT_TARGET_PLATFORM,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
        why: "FROM takes the image for the target's platform by itself; the flag only adds noise.",
        before: "FROM --platform=$TARGETPLATFORM alpine:3.20\n",
        after: "FROM alpine:3.20\n",
        is_mendable: true,
    },
    Rule {
        name: RESERVED_STAGE_NAME,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Reserved words should not be used as stage names",
        why: "`scratch` is the empty image and `context` the build's files; a stage of that name \
              hides them or cannot be reached.",
        before: "FROM alpine:3.20 AS context\n",
        after: "FROM alpine:3.20 AS sources\n",
        is_mendable: false,
    },
    Rule {
        name: SECRETS_IN_ARG_OR_ENV,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Sensitive data should not be used in the ARG or ENV commands",
        why: "ENV stays in the image's config, and ARG in its history and in caches; whoever has the \
              image can read both. Secrets that are mounted leave no trace.",
        before: "FROM alpine:3.20\nARG API_TOKEN\nRUN ./fetch --token \"$API_TOKEN\"\n",
        after: "FROM alpine:3.20\nRUN --mount=type=secret,id=api ./fetch --token-file /run/secrets/api\n",
        is_mendable: false,
    },
    Rule {
        name: STAGE_NAME_CASING,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Stage names should be lowercase",
        why: "Names of stages are compared without regard to letter case; in lower case they are \
              also told apart from the keywords around them.",
        before: "FROM alpine:3.20 AS Build\n",
        after: "FROM alpine:3.20 AS build\n",
        is_mendable: true,
    },
    Rule {
        name: UNDEFINED_ARG_IN_FROM,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "FROM command must use declared ARGs",
        why: "FROM sees only the ARGs above the first FROM. What none of them declares is empty, \
              whatever `--build-arg` says.",
        before: "FROM alpine:3.20$SUFFIX\n",
        after: "ARG SUFFIX=\nFROM alpine:3.20$SUFFIX\n",
        is_mendable: false,
    },
    Rule {
        name: UNDEFINED_VAR,
        aliases: &[],
        origin: Origin::BuildKit,
        summary: "Variables should be defined before their use",
        why: "A variable that no ARG or ENV above sets is replaced by nothing, most often because \
              its name is misspelt or because an ARG before FROM was not declared again in the stage.",
        before: "FROM alpine:3.20\nARG DIR_ASSETS=assets\nCOPY $DIR_ASSET /srv/\n",
        after: "FROM alpine:3.20\nARG DIR_ASSETS=assets\nCOPY $DIR_ASSETS /srv/\n",
        is_mendable: false,
    },
    Rule {
        name: WORKDIR_RELATIVE_PATH,
        aliases: &["DL3000"],
        origin: Origin::BuildKit,
        summary: "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes",
        why: "A relative first WORKDIR lies below the base image's working directory, which its next \
              version may change.",
        before: "FROM alpine:3.20\nWORKDIR app\n",
        after: "FROM alpine:3.20\nWORKDIR /app\n",
        is_mendable: false,
    },
];
