/// Declares the catalogue once: variants, their codes and what they are called.
macro_rules! faults {
    ($($variant:ident $code:literal $title:literal),+ $(,)?) => {
        /// A kind of failure that users meet, under a name that stays: `docs/errors.md` explains each.
        ///
        /// The letter says where to look: D the Dockerfile, S a step, R something fetched or pushed, C the client's
        /// side of a build, B what was asked of the daemon, E the machine, I the daemon itself, U the command line
        /// and the way to the daemon. Numbers are never given to something else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Fault {
            $(#[doc = $title] $variant),+
        }

        impl Fault {
            /// The whole catalogue, in the order of the page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Its name, for instance `D001`.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// What it is called.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),+ }
            }

            /// The fault of that code; `None` if it is a later version's.
            pub fn parse(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

faults! {
    UnknownInstruction "D001" "unknown instruction",
    UnknownFlag "D002" "unknown flag of an instruction",
    FlagValue "D003" "value of a flag",
    Mount "D004" "mount option",
    Arguments "D005" "arguments of an instruction",
    NoStage "D006" "no stage to build",
    UnknownStage "D007" "unknown stage",
    Cycle "D008" "stages that need each other",
    BlankVariable "D009" "variable without a value in FROM",
    Expansion "D010" "variable expression",
    RequiredVariable "D011" "required variable is not set",
    Heredoc "D012" "heredoc without end",
    Syntax "D013" "syntax",
    Reference "D014" "image name or platform",
    Value "D015" "value of an instruction",
    AddSource "D016" "source of ADD or COPY",
    Trigger "D017" "ONBUILD trigger",
    DockerfileLimit "D018" "file is too large",
    NoDockerfile "D019" "no Dockerfile",
    StepFailed "S001" "command failed",
    CommandNotFound "S002" "command not found",
    CommandNotExecutable "S003" "command cannot be executed",
    StepSignal "S004" "command ended by a signal",
    StepMemory "S005" "command ran out of memory",
    StepUser "S006" "unknown user of a step",
    NoSecret "S007" "missing secret",
    NoAgent "S008" "missing ssh agent",
    Entitlement "S009" "missing entitlement",
    NoFile "S010" "file to copy does not exist",
    Files "S011" "files cannot be changed as asked",
    Device "S012" "device of a step",
    ImageNotFound "R001" "image or blob not found",
    Unauthorized "R002" "registry wants credentials",
    Forbidden "R003" "registry refuses",
    RegistryStatus "R004" "registry fails",
    Unreachable "R005" "server cannot be reached",
    Untrusted "R006" "certificate is not trusted",
    NoAnswer "R007" "server does not answer",
    Lied "R008" "content is not what was promised",
    NoPlatform "R009" "image has nothing for the platform",
    Malformed "R010" "answer makes no sense",
    Credentials "R011" "credentials cannot be got",
    HttpStatus "R012" "download refused",
    ClosedAddress "R013" "address is closed to builds",
    Source "R014" "source cannot be used",
    Git "R015" "git fails",
    SessionLost "C001" "client went away",
    NotOffered "C002" "client does not offer it",
    Transfer "C003" "transfer between client and daemon",
    Request "B001" "request makes no sense",
    Unsupported "B002" "not supported",
    Exporter "B003" "option of an output",
    Draining "B004" "daemon is about to stop",
    Cache "B005" "cache to import or export",
    Policy "B006" "source policy",
    DiskFull "E001" "disk is full",
    Sandbox "E002" "step cannot be started",
    Store "E003" "state of the daemon",
    Internal "I001" "internal error",
    Usage "U001" "command line",
    NoDaemon "U002" "no daemon",
    Connection "U003" "connection to the daemon",
    DaemonTls "U004" "certificates of the daemon connection",
    Context "U005" "build context",
    PrivateDaemon "U006" "private daemon does not start",
    LocalFile "U007" "file on the client",
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_unique_and_read_back() {
        let codes: BTreeSet<&str> = Fault::ALL.iter().map(|fault| fault.code()).collect();
        assert_eq!(codes.len(), Fault::ALL.len());
        for fault in Fault::ALL {
            assert_eq!(Fault::parse(fault.code()), Some(*fault));
        }
        assert_eq!(Fault::parse("X999"), None);
    }

    #[test]
    fn the_page_explains_every_code_once_and_no_other() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md");
        let page = std::fs::read_to_string(path).unwrap();
        let headings: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("### ")).collect();
        let expected: Vec<String> =
            Fault::ALL.iter().map(|fault| format!("{} {}", fault.code(), fault.title())).collect();
        assert_eq!(headings, expected);
        // Each has a text of its own and an example.
        for section in page.split("\n### ").skip(1) {
            let (heading, text) = section.split_once('\n').unwrap();
            assert!(text.contains("```"), "{heading} has no example");
            assert!(text.contains(&format!("[{}]", &heading[..4])), "{heading}: another error's example");
        }
    }
}
