"""Kernels that start at once: one process imports what notebooks import (preload.py), each kernel is a fork of it.

Nothing else is shared: a kernel is a process of its own, in its notebook's folder, and runs every cell. Only on Linux:
elsewhere a fork may not use what its parent loaded, and kernels start in the usual way.
"""
import contextlib, multiprocessing, os, signal, sys

METHOD = 'forkserver' if sys.platform == 'linux' else None


def leave_with_parent():
    "A kernel ends when the build does, however that ends."
    multiprocessing.parent_process().join()
    os._exit(1)


def run(arguments, folder, env):
    "In the forked process: a session of its own, then a kernel as `python -m ipykernel_launcher` makes it."
    import atexit, threading
    import preload # a second time: if the first did not succeed, it says why
    import numpy as np
    from ipykernel.kernelapp import IPKernelApp
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    np.random.seed() # or all forks would draw the same
    threading.Thread(target=leave_with_parent, daemon=True).start()
    try: IPKernelApp.launch_instance(argv=[*arguments, f'--IPKernelApp.parent_handle={os.getppid()}'])
    finally: atexit._run_exitfuncs() # which a forked process leaves out


class Forked:
    "A forked process with the words of `subprocess.Popen`."
    stdin = stdout = stderr = None
    def __init__(self, *args):
        self.process = multiprocessing.get_context(METHOD).Process(target=run, args=args)
        self.process.start()
        self.pid = self.process.pid
    def poll(self): return self.process.exitcode
    def send_signal(self, number):
        with contextlib.suppress(ProcessLookupError): os.kill(self.pid, number) # it may just have ended
    def terminate(self): self.send_signal(signal.SIGTERM)
    def kill(self): self.send_signal(signal.SIGKILL)
    def wait(self):
        self.process.join()
        return self.process.exitcode


def provisioner(manager):
    "What starts the process of a kernel's manager; None for the usual way."
    if not METHOD: return None
    from jupyter_client.provisioning import LocalProvisioner

    class Warm(LocalProvisioner):
        async def launch_kernel(self, cmd, cwd, env, **kwargs):
            self.process = Forked(cmd[3:], cwd, env)
            self.pid = self.pgid = self.process.pid
            return self.connection_info

    multiprocessing.get_context(METHOD).set_forkserver_preload(['preload'])
    return Warm(kernel_spec=manager.kernel_spec, parent=manager)
