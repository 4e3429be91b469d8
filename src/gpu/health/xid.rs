//! What an Xid, the driver's number for an error, says about the GPU that it names. A table; it decides nothing.
//!
//! From NVIDIA's "XID Errors" (the Xid Catalog, its columns of actions and trigger conditions) and "GPU Debug
//! Guidelines". An Xid that asks for the GPU's reset or for the node's restart is the GPU's; one that asks to start the
//! application again is the application's, unless the catalogue says that memory was lost. Where that leaves a doubt,
//! it is `Look`: the self-test decides.

/// Whose matter an Xid is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// It says nothing against the GPU.
    Application,
    /// A program did something wrong; if several do, it may be the GPU.
    Program,
    /// It may be the GPU: no new task until a self-test has passed.
    Look,
    /// The GPU cannot be trusted.
    Fatal,
}

/// What an Xid means. A number that is not in the table is a reason to look.
pub fn meaning(xid: u64) -> Meaning {
    match xid {
        // exception of the graphics engine, page fault, graphics class error: what a wrong kernel does, and all that runs here
        // is the same program
        13 | 31 | 69 => Meaning::Program,
        // a channel that was reset by its program, its clean-up, video decoder, an NVLink address without the right to it:
        // what follows on such an error, or on a killed process
        43 | 45 | 68 | 137 => Meaning::Application,
        // a corrected error between CPU and GPU
        121 => Meaning::Application,
        // GPU stopped processing; power cable; breakpoint and halt of its own controller
        46 | 54 | 61 | 62 => Meaning::Fatal,
        // uncorrectable memory errors: double bit, contained, uncontained, unrecovered, DRAM, SRAM
        // (after a contained one, 94, NVIDIA starts the program again and goes on; here the GPU is tested first, five minutes
        // later: its result may be wrong, and the error counts as uncorrectable in the next sample anyway)
        48 | 94 | 95 | 140 | 171 | 172 => Meaning::Fatal,
        // a page or row could not be retired
        64 | 157 => Meaning::Fatal,
        // NVLink: its errors need a reset of the GPU
        74 | 144..=150 | 155 => Meaning::Fatal,
        // fallen off the bus; security fault; GPU does not start; fatal timeout
        79 | 110 | 143 | 158 => Meaning::Fatal,
        // its system processor does not answer, or failed
        119 | 120 => Meaning::Fatal,
        // a channel could not be retired; fatal time-out of PCIe; its controller has halted
        161 | 167 | 169 => Meaning::Fatal,
        // among the rest: 32 bad commands (a program or PCIe), 63 a row or page is to be replaced (the next sample says
        // whether one could not be replaced), 92 many corrected errors, 109 a context switch timed out, 154 the action for
        // recovery changed (the binding to NVML has no call that asks for it)
        _ => Meaning::Look,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_the_catalogue_says() {
        for xid in [13, 31, 69] {
            assert_eq!(meaning(xid), Meaning::Program, "{xid}");
        }
        for xid in [43, 45, 68, 121, 137] {
            assert_eq!(meaning(xid), Meaning::Application, "{xid}");
        }
        for xid in [46, 48, 62, 64, 74, 79, 94, 95, 119, 120, 140, 143, 144, 150, 158, 161, 167, 169] {
            assert_eq!(meaning(xid), Meaning::Fatal, "{xid}");
        }
        for xid in [0, 32, 63, 92, 109, 151, 154, 156, 160, 163, 999, u64::MAX] {
            assert_eq!(meaning(xid), Meaning::Look, "{xid}");
        }
    }
}
