/* NVML's symbols over a text file: what GPUs there are and how they fare, as a test says.
 *
 * FAKE_NVML_STATE names the file: lines of "key value", looked at again at every call where the file has been replaced.
 * FAKE_NVML_LOG: each call is appended there as "pid symbol index". FAKE_NVML_DEVICE: a file that is held open from
 * init to shutdown, as NVML holds /dev/nvidia*. Layouts are those of nvml.h, as pynvml has them.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default"))) int
#define MOST 16
enum { OK = 0, UNINITIALIZED = 1, BAD_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMED_OUT = 10 };
typedef unsigned int u32;
typedef unsigned long long u64;
typedef struct { int gpu, mig; } device;
typedef struct { u32 pid; u64 used; u32 gi, ci; } process;
typedef struct { u32 field, scope; long long at, latency; int type, result; union { u32 ui; u64 ull; } value; } field;
typedef struct { device *of; u64 type, data; u32 gi, ci; } event;

static device devices[MOST][MOST + 1];
static char text[1 << 16];
static struct stat seen;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int inits, open_fd = -1, told;
static u32 registered;

static void look(void) {
  const char *path = getenv("FAKE_NVML_STATE");
  struct stat now;
  if (!path || stat(path, &now)) { text[0] = 0; return; }
  if (now.st_ino == seen.st_ino && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec && now.st_size == seen.st_size) return;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  text[0] = '\n';
  ssize_t n = fd < 0 ? 0 : read(fd, text + 1, sizeof text - 2);
  if (fd >= 0) close(fd);
  text[n > 0 ? n + 1 : 1] = 0;
  seen = now;
}

/* The value behind `key`; 0 where there is none. */
static int said(const char *key, char *into, size_t most) {
  char wanted[160];
  snprintf(wanted, sizeof wanted, "\n%s ", key);
  pthread_mutex_lock(&lock);
  look();
  char *at = strstr(text, wanted);
  if (at) {
    at += strlen(wanted);
    size_t length = strcspn(at, "\n");
    if (length >= most) length = most - 1;
    memcpy(into, at, length);
    into[length] = 0;
  }
  pthread_mutex_unlock(&lock);
  return at != NULL;
}

static long long number(const char *key, long long otherwise) {
  char value[64];
  return said(key, value, sizeof value) ? strtoll(value, NULL, 0) : otherwise;
}

static int is_said(const device *of, const char *what, char *into, size_t most) {
  char key[128];
  if (of->mig) {
    snprintf(key, sizeof key, "gpu.%d.mig.%d.%s", of->gpu, of->mig - 1, what);
    if (said(key, into, most)) return 1;
  }
  snprintf(key, sizeof key, "gpu.%d.%s", of->gpu, what);
  return said(key, into, most);
}

static long long figure(const device *of, const char *what, long long otherwise) {
  char value[64];
  return is_said(of, what, value, sizeof value) ? strtoll(value, NULL, 0) : otherwise;
}

/* What every call begins with: logged, hung for as long as the file says so, and ended by an error of the file. */
static int call(const char *symbol, const device *of) {
  char key[128], value[8];
  const char *log = getenv("FAKE_NVML_LOG");
  if (log) {
    int fd = open(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int length = snprintf(key, sizeof key, "%d %s %d\n", getpid(), symbol, of ? of->gpu : -1);
    if (fd >= 0) { if (write(fd, key, length) < 0) { /* a log may be lost */ } close(fd); }
  }
  snprintf(key, sizeof key, "hang.%s", symbol);
  while (said(key, value, sizeof value) && (!of || value[0] == '*' || atoi(value) == of->gpu)) usleep(10000);
  snprintf(key, sizeof key, "error.%s", symbol);
  int error = (int)number(key, OK);
  if (error) return error;
  if (strcmp(symbol, "nvmlInitWithFlags") && !inits) return UNINITIALIZED;
  return of ? (int)figure(of, "error", OK) : OK;
}

#define BEGIN(of) do { int error_ = call(__func__, of); if (error_) return error_; } while (0)
#define FIGURE(name, type, what) \
  API name(device *of, type *into) { BEGIN(of); long long n = figure(of, what, -1); \
    if (n < 0) return NOT_SUPPORTED; *into = (type)n; return OK; }

API nvmlInitWithFlags(u32 flags) {
  BEGIN(NULL);
  int error = (int)number("init", OK);
  if (error) return error;
  for (int i = 0; i < MOST; i++) for (int j = 0; j <= MOST; j++) devices[i][j] = (device){i, j};
  const char *path = getenv("FAKE_NVML_DEVICE");
  if (!inits++ && path) open_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  return OK;
}
API nvmlShutdown(void) {
  BEGIN(NULL);
  if (!--inits && open_fd >= 0) { close(open_fd); open_fd = -1; }
  return OK;
}
__attribute__((visibility("default"))) const char *nvmlErrorString(int error) { return error ? "an error" : "none"; }
API nvmlSystemGetDriverVersion(char *into, u32 most) {
  BEGIN(NULL);
  return said("version", into, most) ? OK : NOT_SUPPORTED;
}
API nvmlDeviceGetCount_v2(u32 *count) { BEGIN(NULL); *count = (u32)number("count", 0); return OK; }
API nvmlDeviceGetHandleByIndex_v2(u32 index, device **of) {
  if (index >= number("count", 0)) return BAD_ARGUMENT;
  BEGIN(&devices[index][0]);
  *of = &devices[index][0];
  return OK;
}
API nvmlDeviceGetHandleByUUID(const char *uuid, device **of) {
  BEGIN(NULL);
  for (int i = 0; i < number("count", 0); i++)
    for (int j = 0; j <= figure(&devices[i][0], "migs", 0); j++) {
      char value[96];
      if (is_said(&devices[i][j], "uuid", value, sizeof value) && !strcmp(value, uuid)) {
        *of = &devices[i][j];
        return OK;
      }
    }
  return NOT_FOUND;
}
API nvmlDeviceGetUUID(device *of, char *into, u32 most) {
  BEGIN(of->mig ? of : NULL); /* a lost GPU's is still known */
  return is_said(of, "uuid", into, most) ? OK : NOT_SUPPORTED;
}
API nvmlDeviceGetName(device *of, char *into, u32 most) { BEGIN(of); return is_said(of, "name", into, most) ? OK : NOT_SUPPORTED; }
API nvmlDeviceGetMigMode(device *of, u32 *now, u32 *next) {
  BEGIN(of);
  long long migs = figure(of, "migs", -1);
  if (migs < 0) return NOT_SUPPORTED;
  *now = *next = migs > 0;
  return OK;
}
API nvmlDeviceGetMaxMigDeviceCount(device *of, u32 *count) { BEGIN(of); *count = 7; return OK; }
API nvmlDeviceGetMigDeviceHandleByIndex(device *of, u32 index, device **mig) {
  BEGIN(of);
  if (index >= figure(of, "migs", 0)) return NOT_FOUND;
  *mig = &devices[of->gpu][index + 1];
  return OK;
}
#ifndef OLD
typedef struct { u32 version; u64 total, reserved, free, used; } memory;
API nvmlDeviceGetMemoryInfo_v2(device *of, memory *into) {
  BEGIN(of);
  if (into->version != 0x02000028) return 25;
  into->total = figure(of, "total", 0);
  into->reserved = figure(of, "reserved", 0);
  into->free = figure(of, "free", 0);
  into->used = into->total - into->reserved - into->free;
  return OK;
}
API nvmlDeviceGetFieldValues(device *of, int count, field *fields) {
  BEGIN(of);
  for (int i = 0; i < count; i++) {
    char what[32];
    snprintf(what, sizeof what, "field.%u", fields[i].field);
    long long value = figure(of, what, -1);
    fields[i].result = value < 0 ? NOT_SUPPORTED : OK;
    fields[i].type = 1;
    fields[i].value.ull = 0;
    fields[i].value.ui = (u32)value;
  }
  return OK;
}
API nvmlDeviceGetMarginTemperature(device *of, struct { u32 version; int margin; } *into) {
  BEGIN(of);
  char value[16];
  if (!is_said(of, "margin", value, sizeof value)) return NOT_SUPPORTED;
  into->margin = atoi(value);
  return OK;
}
/* "1234:1048576 1235:-": pid and bytes, "-" where the driver does not say. */
static int processes(device *of, const char *what, u32 *count, process *into) {
  char value[512];
  u32 found = 0, room = *count;
  if (is_said(of, what, value, sizeof value)) {
    char *rest = NULL;
    for (char *one = strtok_r(value, " ", &rest); one; one = strtok_r(NULL, " ", &rest), found++) {
      if (!into || found >= room) continue;
      char *bytes = strchr(one, ':');
      u64 used = !bytes || bytes[1] == '-' ? ~0ULL : strtoull(bytes + 1, NULL, 0);
      into[found] = (process){(u32)atoi(one), used, ~0u, ~0u};
    }
  }
  *count = found;
  return found && (!into || found > room) ? TOO_SMALL : OK;
}
API nvmlDeviceGetComputeRunningProcesses_v3(device *of, u32 *count, process *into) {
  BEGIN(of);
  return processes(of, "processes", count, into);
}
API nvmlDeviceGetGraphicsRunningProcesses_v3(device *of, u32 *count, process *into) {
  BEGIN(of);
  return processes(of, "graphics", count, into);
}
API nvmlDeviceGetMPSComputeRunningProcesses_v3(device *of, u32 *count, process *into) {
  BEGIN(of);
  return processes(of, "mps", count, into);
}
#endif
API nvmlDeviceGetMemoryInfo(device *of, struct { u64 total, free, used; } *into) {
  BEGIN(of);
  into->total = figure(of, "total", 0);
  into->free = figure(of, "free", 0);
  into->used = into->total - into->free;
  return OK;
}
API nvmlDeviceGetEccMode(device *of, u32 *now, u32 *next) {
  BEGIN(of);
  if (figure(of, "ecc", -1) < 0) return NOT_SUPPORTED;
  *now = *next = 1;
  return OK;
}
API nvmlDeviceGetTotalEccErrors(device *of, int kind, int counter, u64 *into) {
  BEGIN(of);
  if (figure(of, "ecc", -1) < 0) return NOT_SUPPORTED;
  *into = kind == 1 && counter == 0 ? (u64)figure(of, "ecc", 0) : 0;
  return OK;
}
API nvmlDeviceGetRemappedRows(device *of, u32 *correctable, u32 *uncorrectable, u32 *pending, u32 *failed) {
  BEGIN(of);
  if (figure(of, "remapped", -1) < 0) return NOT_SUPPORTED;
  *correctable = 0;
  *uncorrectable = (u32)figure(of, "remapped", 0);
  *pending = (u32)figure(of, "remap_pending", 0);
  *failed = (u32)figure(of, "remap_failed", 0);
  return OK;
}
API nvmlDeviceGetTemperature(device *of, int sensor, u32 *into) {
  BEGIN(of);
  *into = (u32)figure(of, "temperature", 40);
  return OK;
}
API nvmlDeviceGetTemperatureThreshold(device *of, int which, u32 *into) {
  BEGIN(of);
  if (which != 1 || figure(of, "slowdown", -1) < 0) return NOT_SUPPORTED;
  *into = (u32)figure(of, "slowdown", 0);
  return OK;
}
FIGURE(nvmlDeviceGetRetiredPagesPendingStatus, u32, "retirement_pending")
FIGURE(nvmlDeviceGetCurrentClocksEventReasons, u64, "reasons")
FIGURE(nvmlDeviceGetPowerUsage, u32, "power")
FIGURE(nvmlDeviceGetEnforcedPowerLimit, u32, "power_limit")
API nvmlDeviceGetUtilizationRates(device *of, struct { u32 gpu, memory; } *into) {
  BEGIN(of);
  if (of->mig || figure(of, "utilization", -1) < 0) return NOT_SUPPORTED;
  *into = (typeof(*into)){(u32)figure(of, "utilization", 0), 0};
  return OK;
}
API nvmlDeviceGetSupportedEventTypes(device *of, u64 *into) {
  BEGIN(of);
  *into = (u64)figure(of, "events", 0xC008);
  return OK;
}
API nvmlEventSetCreate(void **set) { BEGIN(NULL); registered = 0; *set = &registered; return OK; }
API nvmlEventSetFree(void *set) { BEGIN(NULL); return OK; }
API nvmlDeviceRegisterEvents(device *of, u64 types, void *set) {
  BEGIN(of);
  if (types & ~(u64)figure(of, "events", 0xC008)) return NOT_SUPPORTED;
  registered |= 1u << of->gpu;
  return OK;
}
/* "event.1 0 79": the first event is Xid 79 of GPU 0. Each is told once, and only while somebody is registered. */
API nvmlEventSetWait_v2(void *set, event *into, u32 timeout_ms) {
  BEGIN(NULL);
  u32 step_ms = (u32)number("poll_ms", 5);
  for (u32 waited = 0;; waited += step_ms) {
    char key[32], value[64];
    int gpu;
    u64 code, type = 8;
    for (int i = 0; i < MOST; i++)
      if (registered & 1u << i && figure(&devices[i][0], "error", OK)) return (int)figure(&devices[i][0], "error", OK);
    snprintf(key, sizeof key, "event.%d", told + 1);
    if (said(key, value, sizeof value) && sscanf(value, "%d %llu %llu", &gpu, &code, &type) >= 2) {
      told++;
      if (registered & 1u << gpu) {
        *into = (event){&devices[gpu][0], type, code, ~0u, ~0u};
        return OK;
      }
    }
    if (waited >= timeout_ms) return TIMED_OUT;
    usleep(1000 * step_ms);
  }
}
