/* Preloaded: the wall clock runs ahead by the number of seconds at the start of $CLOCK_OFFSET_FILE,
 * which can change at any time. Only what the C++ of Ray asks for stays true: it hands absolute times
 * to the kernel, whose clock does not jump. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile int64_t *offset;

__attribute__((constructor)) static void open_offset(void) {
  const char *path = getenv("CLOCK_OFFSET_FILE");
  int file = path ? open(path, O_RDONLY) : -1;
  void *mapped = file < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, file, 0);
  if (mapped != MAP_FAILED) offset = mapped;
}

static int64_t ahead(void *caller) {
  Dl_info from;
  if (!offset || !dladdr(caller, &from) || !from.dli_fname) return 0;
  int of_ray = strstr(from.dli_fname, "/ray/") || strstr(from.dli_fname, "/libstdc++");
  return of_ray ? 0 : *offset;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  int failed = syscall(SYS_clock_gettime, clock, now);
  if (!failed && clock == CLOCK_REALTIME) now->tv_sec += ahead(__builtin_return_address(0));
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int failed = syscall(SYS_gettimeofday, now, zone);
  if (!failed) now->tv_sec += ahead(__builtin_return_address(0));
  return failed;
}

time_t time(time_t *result) {
  struct timespec now;
  syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
  now.tv_sec += ahead(__builtin_return_address(0));
  if (result) *result = now.tv_sec;
  return now.tv_sec;
}
