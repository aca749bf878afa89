package pac

import (
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/windows"
)

// limitSelf puts this process into a job of its own that refuses it memory beyond a bound, which ends it.
func limitSelf(memory uint64) {
	debug.SetMemoryLimit(int64(memory) / 2) // collect in time; the rest is for what cannot be
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return // the watch is there too
	}
	info := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{
		BasicLimitInformation: windows.JOBOBJECT_BASIC_LIMIT_INFORMATION{LimitFlags: windows.JOB_OBJECT_LIMIT_PROCESS_MEMORY},
		ProcessMemoryLimit:    uintptr(2 * memory),
	}
	_, err = windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info)))
	if err == nil {
		_ = windows.AssignProcessToJobObject(job, windows.CurrentProcess())
	}
}
