/*
 * Preloaded below tests/uml/xstate.c: a kernel on a processor with AMX, as far as ptrace shows it. The XSAVE area has 11 008 bytes,
 * of which those that this machine's processor lacks are zero; reading fills what fits, writing less is refused.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { SIZE = 11008 };

static unsigned char area[SIZE];

long ptrace(enum __ptrace_request request, ...)
{
	static long (*next)(enum __ptrace_request, ...);
	va_list arguments;
	pid_t pid;
	void *address, *data;
	struct iovec *part, whole = { area, SIZE };

	if (!next)
		next = dlsym(RTLD_NEXT, "ptrace");
	va_start(arguments, request);
	pid = va_arg(arguments, pid_t);
	address = va_arg(arguments, void *);
	data = va_arg(arguments, void *);
	va_end(arguments);
	if ((request != PTRACE_SETREGSET && request != PTRACE_GETREGSET) || (unsigned int)(uintptr_t)address != NT_X86_XSTATE)
		return next(request, pid, address, data);

	part = data;
	if (part->iov_len > SIZE)
		part->iov_len = SIZE;
	if (request == PTRACE_SETREGSET) {
		if (part->iov_len < SIZE) {
			errno = EFAULT;
			return -1;
		}
		return next(request, pid, address, part);
	}
	memset(area, 0, SIZE);
	if (next(request, pid, address, &whole) < 0)
		return -1;
	memcpy(part->iov_base, area, part->iov_len);
	return 0;
}
