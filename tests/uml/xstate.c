/*
 * Lets user-mode Linux run on processors that have more registers than it knows. tests/uml/start preloads it.
 *
 * User-mode Linux 6.1 keeps 2696 bytes (HOST_FP_SIZE) of the XSAVE area of each process, which is all up to PKRU, and writes
 * them back with PTRACE_SETREGSET. The host's kernel refuses to write less than the whole area with EFAULT (xstateregs_set() in
 * arch/x86/kernel/fpu/regset.c). With AMX the whole area has 11 008 bytes, and user-mode Linux panics at its first process.
 *
 * A write that is too short is therefore made as long as the area. Components that do not lie within the bytes given get
 * their initial state, as XRSTOR would give it to them: where each lies is what CPUID says, since it differs between processors.
 * All else reaches the C library unchanged.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

/* Intel SDM volume 1, 13.4: the legacy region has 512 bytes, the header begins with XSTATE_BV and has 64. */
enum { LEGACY = 512, HEADER = 64 };
/* CPUID leaf 0xD: a component of the supervisor's is not in the area (ECX bit 0). */
enum { XSTATE_LEAF = 0xd, COMPONENTS = 63, OF_SUPERVISOR = 1 };

static long (*next)(enum __ptrace_request, ...);

/*
 * The whole area as it is written, and its size once it is known. Static, since the stacks of a kernel are small and the C
 * library's heap is not for a kernel that runs; only one processor of user-mode Linux uses it.
 */
static unsigned char area[1 << 16];
static size_t area_size;

__attribute__((constructor)) static void find_next(void)
{
	next = dlsym(RTLD_NEXT, "ptrace");
}

/* The size of the area of a stopped process; 0 where it cannot be told. It is the same for all processes. */
static size_t size_of_area(pid_t pid)
{
	if (area_size == 0) {
		struct iovec all = { area, sizeof area };

		if (next(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &all) == 0 && all.iov_len < sizeof area)
			area_size = all.iov_len;
	}
	return area_size;
}

/* The components that lie within the first `size` bytes of the area, as bits of XSTATE_BV. */
static uint64_t components_within(size_t size)
{
	static size_t known_size;
	static uint64_t known;

	if (size != known_size) {
		/* x87 and SSE, in the legacy region. */
		known = 3;
		for (unsigned int i = 2; i < COMPONENTS; i++) {
			unsigned int length, offset, flags, unused;

			__cpuid_count(XSTATE_LEAF, i, length, offset, flags, unused);
			if (length > 0 && !(flags & OF_SUPERVISOR) && (size_t)offset + length <= size)
				known |= UINT64_C(1) << i;
		}
		known_size = size;
	}
	return known;
}

static long set_xstate(pid_t pid, const struct iovec *given)
{
	size_t size = given->iov_len;
	struct iovec whole = { area, 0 };
	uint64_t components;

	if (size >= LEGACY + HEADER)
		whole.iov_len = size_of_area(pid);
	if (size >= whole.iov_len)
		return next(PTRACE_SETREGSET, pid, NT_X86_XSTATE, given);
	/* What is behind them is of no component in XSTATE_BV: the kernel does not look at it. */
	memcpy(area, given->iov_base, size);
	memcpy(&components, area + LEGACY, sizeof components);
	components &= components_within(size);
	memcpy(area + LEGACY, &components, sizeof components);
	return next(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list arguments;
	pid_t pid;
	void *address, *data;

	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if (request == PTRACE_SETREGSET && (unsigned int)(uintptr_t)address == NT_X86_XSTATE)
		return set_xstate(pid, data);
	return next(request, pid, address, data);
}
