// Which system calls are file-system calls, and how to read and change one that a stopped thread is about to make.

#pragma once

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <elf.h>
#include <linux/audit.h>
#include <string>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <unistd.h>

constexpr int kCannotTrace = 125;

[[noreturn]] inline void give_up(const std::string& what) {
    std::fprintf(stderr, "fault_syscalls: %s: %s\n", what.c_str(), std::strerror(errno));
    _exit(kCannotTrace);
}

enum Effect { kLook, kChange, kSpace, kWrite };

struct Call {
    long number;
    const char* name;
    // Of each argument: `f` a descriptor, `d` the descriptor of a folder, `p` a path (below the folder right before it).
    const char* arguments;
    Effect effect;
};

#define CALL(name, arguments, effect) {SYS_##name, #name, arguments, effect}
const Call kCalls[] = {
    CALL(openat, "dp", kLook),
    CALL(openat2, "dp", kLook),
    CALL(read, "f", kLook),
    CALL(pread64, "f", kLook),
    CALL(readv, "f", kLook),
    CALL(write, "f", kWrite),
    CALL(pwrite64, "f", kWrite),
    CALL(writev, "f", kWrite),
    CALL(pwritev, "f", kSpace),
    CALL(fsync, "f", kSpace),
    CALL(fdatasync, "f", kSpace),
    CALL(sync_file_range, "f", kSpace),
    CALL(ftruncate, "f", kSpace),
    CALL(truncate, "p", kSpace),
    CALL(fallocate, "f", kSpace),
    CALL(copy_file_range, "f-f", kSpace),
    CALL(sendfile, "ff", kSpace),
    CALL(renameat2, "dpdp", kSpace),
    CALL(linkat, "dpdp", kSpace),
    CALL(symlinkat, "-dp", kSpace),
    CALL(mkdirat, "dp", kSpace),
    CALL(unlinkat, "dp", kChange),
    CALL(fchmod, "f", kChange),
    CALL(fchmodat, "dp", kChange),
    CALL(utimensat, "dp", kChange),
    CALL(statx, "dp", kLook),
    CALL(fstat, "f", kLook),
    CALL(newfstatat, "dp", kLook),
    CALL(faccessat, "dp", kLook),
    CALL(readlinkat, "dp", kLook),
    CALL(getdents64, "f", kLook),
    CALL(statfs, "p", kLook),
    CALL(fstatfs, "f", kLook),
    CALL(flock, "f", kLook),
    CALL(fcntl, "f", kLook),
#ifdef SYS_faccessat2
    CALL(faccessat2, "dp", kLook),
#endif
#ifdef SYS_renameat
    CALL(renameat, "dpdp", kSpace),
#endif
// The old calls, which new machines lack.
#ifdef SYS_open
    CALL(open, "p", kLook),
    CALL(creat, "p", kSpace),
    CALL(rename, "pp", kSpace),
    CALL(link, "pp", kSpace),
    CALL(symlink, "-p", kSpace),
    CALL(mkdir, "p", kSpace),
    CALL(rmdir, "p", kChange),
    CALL(unlink, "p", kChange),
    CALL(chmod, "p", kChange),
    CALL(stat, "p", kLook),
    CALL(lstat, "p", kLook),
    CALL(access, "p", kLook),
    CALL(readlink, "p", kLook),
#endif
};

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "not known how this machine passes the arguments of system calls"
#endif

// A thread that was killed meanwhile.
struct Gone {};

inline void expect(bool works, const char* what) {
    if (works) return;
    if (errno == ESRCH) throw Gone();
    give_up(what);
}

// The registers of a thread that is about to make a call.
struct Registers {
    pid_t thread;
    user_regs_struct values{};

    explicit Registers(pid_t of) : thread(of) {
        iovec all{&values, sizeof values};
        expect(ptrace(PTRACE_GETREGSET, thread, NT_PRSTATUS, &all) == 0, "PTRACE_GETREGSET");
    }

    void store() {
        iovec all{&values, sizeof values};
        expect(ptrace(PTRACE_SETREGSET, thread, NT_PRSTATUS, &all) == 0, "PTRACE_SETREGSET");
    }

#if defined(__x86_64__)
    long number() const { return static_cast<long>(values.orig_rax); }
    uint64_t argument(int which) const {
        const unsigned long long all[] = {values.rdi, values.rsi, values.rdx, values.r10, values.r8, values.r9};
        return all[which];
    }
    void set_third(uint64_t value) { values.rdx = value; }
    void make_write(uint64_t data, uint64_t size) {
        values.orig_rax = SYS_write;
        values.rsi = data;
        values.rdx = size;
    }
    void skip(long result) {
        values.orig_rax = -1;
        values.rax = static_cast<unsigned long long>(result);
    }
#else
    long number() const { return static_cast<long>(values.regs[8]); }
    uint64_t argument(int which) const { return values.regs[which]; }
    void set_third(uint64_t value) { values.regs[2] = value; }
    void set_number(int number) {
        iovec one{&number, sizeof number};
        expect(ptrace(PTRACE_SETREGSET, thread, 0x404 /* NT_ARM_SYSTEM_CALL */, &one) == 0, "NT_ARM_SYSTEM_CALL");
    }
    void make_write(uint64_t data, uint64_t size) {
        set_number(SYS_write);
        values.regs[1] = data;
        values.regs[2] = size;
    }
    void skip(long result) {
        set_number(-1);
        values.regs[0] = static_cast<uint64_t>(result);
    }
#endif
};
