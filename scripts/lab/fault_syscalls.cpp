// Runs a program and counts its file-system calls below given folders; one of them fails, does less than was asked, or is the
// program's last.
//
//     fault_syscalls --log FILE --under PATH [--under PATH ...] [--only NAME ...] [WHAT N [ERRNO]] -- PROGRAM [ARGUMENT ...]
//
// --only counts calls of these names alone.
// WHAT is --fail (the N-th fails), --fail-from (it and all after it that can fail so), --short (a write takes fewer bytes),
// --kill-before or --kill-after (SIGKILL), --stop (SIGSTOP; a SIGCONT to this program is passed on). Without it calls are only
// counted. ERRNO is a number.
//
// The log has a line for each call: its number, its name, what it does (`space`: it may need some, `change`: it changes
// something, `write`: it writes bytes, `look`: none of these), `*` if it was meddled with, and the first path below the folders.
// Ends as the program does, by the same signal too; 125 if it cannot trace.
//
// The kernel tells of the calls (seccomp), so that it does not matter which library makes them. All threads and children share
// one count.

#include <algorithm>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include "fault_calls.hpp"

namespace {

void read_memory(pid_t thread, uint64_t address, void* to, size_t size) {
    iovec local{to, size}, remote{reinterpret_cast<void*>(address), size};
    expect(process_vm_readv(thread, &local, 1, &remote, 1, 0) == static_cast<ssize_t>(size), "process_vm_readv");
}

// Empty for a null pointer.
std::string read_text(pid_t thread, uint64_t address) {
    std::string text;
    // The next page may not be there.
    while (address != 0 && text.size() < PATH_MAX) {
        char part[256];
        size_t size = std::min<size_t>(sizeof part, 4096 - address % 4096);
        read_memory(thread, address, part, size);
        size_t length = strnlen(part, size);
        text.append(part, length);
        if (length < size) break;
        address += size;
    }
    return text;
}

std::string link_target(const std::string& link) {
    char target[PATH_MAX];
    ssize_t length = readlink(link.c_str(), target, sizeof target);
    return length < 0 ? std::string() : std::string(target, static_cast<size_t>(length));
}

std::string of_descriptor(pid_t thread, int descriptor) {
    std::string process = "/proc/" + std::to_string(thread);
    return link_target(descriptor == AT_FDCWD ? process + "/cwd" : process + "/fd/" + std::to_string(descriptor));
}

// Without `.`, `..` and double slashes. Links stay: what is asked for by another name is not below the folder.
std::string plain(const std::string& path) {
    std::vector<std::string> parts;
    for (size_t at = 0; at < path.size();) {
        size_t end = std::min(path.find('/', at), path.size());
        std::string part = path.substr(at, end - at);
        if (part == "..") {
            if (!parts.empty()) parts.pop_back();
        } else if (!part.empty() && part != ".") {
            parts.push_back(part);
        }
        at = end + 1;
    }
    std::string joined;
    for (const std::string& part : parts) joined += "/" + part;
    return joined;
}

struct Settings {
    std::vector<std::string> under, only;
    std::string what;
    long at = 0;
    int error = 0;
    std::FILE* log = nullptr;
};

bool is_below(const Settings& settings, const std::string& path) {
    for (const std::string& folder : settings.under) {
        bool starts = path.compare(0, folder.size(), folder) == 0;
        if (starts && (path.size() == folder.size() || path[folder.size()] == '/')) return true;
    }
    return false;
}

// The first path of the call that is below the folders; empty if there is none.
std::string path_below(const Settings& settings, const Call& call, const Registers& registers) {
    for (int which = 0; call.arguments[which] != '\0'; ++which) {
        char kind = call.arguments[which];
        std::string path;
        if (kind == 'f') {
            path = of_descriptor(registers.thread, static_cast<int>(registers.argument(which)));
        } else if (kind == 'p') {
            path = read_text(registers.thread, registers.argument(which));
            if (path.empty() || path[0] != '/') {
                bool has_folder = which > 0 && call.arguments[which - 1] == 'd';
                int folder = has_folder ? static_cast<int>(registers.argument(which - 1)) : AT_FDCWD;
                path = of_descriptor(registers.thread, folder) + "/" + path;
            }
        } else {
            continue;
        }
        path = plain(path);
        if (is_below(settings, path)) return path;
    }
    return std::string();
}

// What an `open` may do is in its flags.
Effect effect_of(const Call& call, const Registers& registers) {
    uint64_t flags = 0;
    std::string name = call.name;
    if (name == "openat") flags = registers.argument(2);
    if (name == "open") flags = registers.argument(1);
    if (name == "openat2") read_memory(registers.thread, registers.argument(2), &flags, sizeof flags);
    bool makes = (flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE;
    return makes ? kSpace : (flags & O_TRUNC) != 0 ? kChange : call.effect;
}

bool can_fail_so(Effect effect, int error) {
    switch (error) {
        case ENOSPC:
        case EDQUOT: return effect == kSpace || effect == kWrite;
        case EROFS: return effect != kLook;
        default: return true;
    }
}

// Lets the write take half of what it was to take, or all but a byte; whether there was a byte to keep back.
bool cut_short(Registers& registers) {
    uint64_t size = registers.argument(2);
    if (registers.number() == SYS_writev) {
        if (size > 1) {
            registers.set_third(size / 2);
        } else {
            iovec part{};
            read_memory(registers.thread, registers.argument(1), &part, sizeof part);
            if (part.iov_len < 2) return false;
            registers.make_write(reinterpret_cast<uint64_t>(part.iov_base), part.iov_len / 2);
        }
    } else {
        if (size < 2) return false;
        registers.set_third(size / 2);
    }
    registers.store();
    return true;
}

class Tracer {
public:
    Tracer(const Settings& settings, pid_t program) : settings_(settings), program_(program) {}

    // The program's status when all of it has ended.
    int run() {
        int result = 0, status = 0;
        for (;;) {
            pid_t thread = waitpid(-1, &status, __WALL);
            if (thread < 0) {
                if (errno == EINTR) continue;
                return result;
            }
            if (!WIFSTOPPED(status)) {
                if (thread == program_) result = status;
                continue;
            }
            step(thread, WSTOPSIG(status), status >> 16);
        }
    }

private:
    void step(pid_t thread, int signal, int event) {
        if (event == PTRACE_EVENT_SECCOMP) {
            try {
                before(thread);
            } catch (const Gone&) {
                // `waitpid` tells of it next.
            }
        } else if (event == 0 && signal == (SIGTRAP | 0x80)) {
            // The call is over that is to be the last.
            kill(program_, SIGKILL);
        } else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
            ptrace(PTRACE_LISTEN, thread, nullptr, nullptr);
        } else {
            // Fails where it is gone.
            ptrace(PTRACE_CONT, thread, nullptr, event == 0 ? signal : 0);
        }
    }

    void before(pid_t thread) {
        bool until_its_end = false;
        Registers registers(thread);
        for (const Call& call : kCalls) {
            if (call.number != registers.number()) continue;
            if (call.number == SYS_fcntl && !is_lock(registers.argument(1))) break;
            std::string path = path_below(settings_, call, registers);
            if (!path.empty() && is_asked_for(call)) until_its_end = meddle(call, registers, path);
            break;
        }
        ptrace(until_its_end ? PTRACE_SYSCALL : PTRACE_CONT, thread, nullptr, nullptr);
    }

    bool is_asked_for(const Call& call) const {
        const std::vector<std::string>& only = settings_.only;
        return only.empty() || std::find(only.begin(), only.end(), call.name) != only.end();
    }

    static bool is_lock(uint64_t command) {
        return command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW;
    }

    // Whether the call's end is to be seen.
    bool meddle(const Call& call, Registers& registers, const std::string& path) {
        static const char* const kEffects[] = {"look", "change", "space", "write"};
        Effect effect = effect_of(call, registers);
        bool is_it = ++count_ == settings_.at;
        bool meddled = false, until_its_end = false;
        bool lasts = settings_.what == "--fail-from" && count_ >= settings_.at && can_fail_so(effect, settings_.error);
        if (lasts || (is_it && settings_.what == "--fail")) {
            registers.skip(-settings_.error);
            registers.store();
            meddled = true;
        } else if (is_it && settings_.what == "--short") {
            meddled = effect == kWrite && cut_short(registers);
        } else if (is_it && settings_.what == "--kill-before") {
            kill(program_, SIGKILL);
            meddled = true;
        } else if (is_it && settings_.what == "--stop") {
            // To the thread itself: this call is the last thing that it does before the stop, however busy the others are.
            syscall(SYS_tgkill, program_, registers.thread, SIGSTOP);
            meddled = true;
        } else if (is_it && settings_.what == "--kill-after") {
            meddled = until_its_end = true;
        }
        const char* mark = meddled ? "*" : "";
        std::fprintf(settings_.log, "%ld\t%s\t%s\t%s\t%s\n", count_, call.name, kEffects[effect], mark, path.c_str());
        std::fflush(settings_.log);
        return until_its_end;
    }

    const Settings& settings_;
    pid_t program_;
    long count_ = 0;
};

// From here on the kernel tells of these calls, in children too.
void install_filter() {
    std::vector<sock_filter> filter = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
    };
    for (const Call& call : kCalls) {
        filter.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call.number), 0, 1));
        filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE));
    }
    filter.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
    sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) give_up("PR_SET_NO_NEW_PRIVS");
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) give_up("PR_SET_SECCOMP");
}

pid_t continued = 0;

void pass_on(int signal) { kill(continued, signal); }

std::string real_path(const char* path) {
    char resolved[PATH_MAX];
    // What is yet to be made has no other name.
    return realpath(path, resolved) == nullptr ? plain(path) : resolved;
}

Settings parse(int count, char** arguments, char*** program) {
    Settings settings;
    for (int at = 1; at < count; ++at) {
        std::string flag = arguments[at];
        int left = count - at - 1;
        if (flag == "--" && left > 0 && settings.log != nullptr && !settings.under.empty()) {
            *program = arguments + at + 1;
            return settings;
        }
        if (flag == "--log" && left > 0) {
            // Not for the program.
            settings.log = std::fopen(arguments[++at], "we");
            if (settings.log == nullptr) give_up(arguments[at]);
        } else if (flag == "--under" && left > 0) {
            settings.under.push_back(real_path(arguments[++at]));
        } else if (flag == "--only" && left > 0) {
            settings.only.push_back(arguments[++at]);
        } else if ((flag == "--fail" || flag == "--fail-from") && left > 1) {
            settings.what = flag;
            settings.at = std::atol(arguments[++at]);
            settings.error = std::atoi(arguments[++at]);
        } else if ((flag == "--short" || flag == "--kill-before" || flag == "--kill-after" || flag == "--stop") && left > 0) {
            settings.what = flag;
            settings.at = std::atol(arguments[++at]);
        } else {
            break;
        }
    }
    errno = EINVAL;
    give_up("usage: fault_syscalls --log FILE --under PATH [WHAT N [ERRNO]] -- PROGRAM [ARGUMENT ...]");
}

}  // namespace

int main(int count, char** arguments) {
    char** command = nullptr;
    Settings settings = parse(count, arguments, &command);
    int traced[2];
    if (pipe2(traced, O_CLOEXEC) != 0) give_up("pipe");
    pid_t program = fork();
    if (program < 0) give_up("fork");
    if (program == 0) {
        char go = 0;
        close(traced[1]);
        // Closed without a word, if it cannot be traced.
        if (read(traced[0], &go, 1) != 1) _exit(kCannotTrace);
        install_filter();
        execvp(command[0], command);
        give_up(command[0]);
    }
    constexpr long kFollow = PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC;
    constexpr long kOptions = PTRACE_O_EXITKILL | PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | kFollow;
    if (ptrace(PTRACE_SEIZE, program, nullptr, kOptions) != 0) give_up("PTRACE_SEIZE");
    continued = program;
    signal(SIGCONT, pass_on);
    if (write(traced[1], "", 1) != 1) give_up("pipe");
    int status = Tracer(settings, program).run();
    if (!WIFSIGNALED(status)) return WEXITSTATUS(status);
    // As the program ended, but its memory is its own.
    rlimit none{0, 0};
    setrlimit(RLIMIT_CORE, &none);
    signal(WTERMSIG(status), SIG_DFL);
    raise(WTERMSIG(status));
    return 128 + WTERMSIG(status);
}
