"""`Runtime`: opening, closing, and being found."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import anyio
import pytest

import asyncgpu
from asyncgpu import NoRuntime, RequestError, Runtime, Settings
from asyncgpu.testing import gate, virtual_gpus

pytestmark = pytest.mark.anyio

TWO = Settings(virtual_devices="2x8GiB")


async def test_without_a_runtime_every_function_says_how_to_open_one():
    for call in (asyncgpu.current_runtime, asyncgpu.list_contexts):
        with pytest.raises(NoRuntime, match=r"async with asyncgpu.Runtime\(\)"):
            call()
    with pytest.raises(NoRuntime):
        await asyncgpu.create_context("a")


async def test_the_runtime_around_the_task_is_the_current_one():
    async with Runtime(settings=TWO) as outer:
        assert asyncgpu.current_runtime() is outer
        async with Runtime(settings=TWO) as inner:
            assert asyncgpu.current_runtime() is inner
        assert asyncgpu.current_runtime() is outer


async def test_other_tasks_of_the_loop_find_the_single_open_runtime():
    runtime = Runtime(settings=TWO)
    found = []

    async def elsewhere():
        found.append(asyncgpu.current_runtime())

    async with anyio.create_task_group() as tasks:
        await runtime.open()
        tasks.start_soon(elsewhere)
    assert found == [runtime]
    await runtime.aclose()


async def test_of_two_runtimes_neither_is_guessed():
    one, two = Runtime(settings=TWO), Runtime(settings=TWO)
    await one.open()
    await two.open()
    with pytest.raises(NoRuntime, match="2 are open"):
        asyncgpu.current_runtime()
    await two.aclose()
    assert asyncgpu.current_runtime() is one
    await one.aclose()


async def test_a_thread_without_a_loop_finds_it_too():
    async with Runtime(settings=TWO) as runtime:
        assert await anyio.to_thread.run_sync(asyncgpu.current_runtime) is runtime


async def test_it_may_be_opened_in_one_task_and_closed_in_another():
    runtime = Runtime(settings=TWO)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runtime.open)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(runtime.aclose)
    assert not runtime.is_open


async def test_it_opens_once_and_closes_any_number_of_times():
    runtime = Runtime(settings=TWO)
    await runtime.open()
    with pytest.raises(RequestError, match="opened once"):
        await runtime.open()
    await runtime.aclose()
    await runtime.aclose()
    with pytest.raises(NoRuntime):
        await runtime.create_context("late")


async def test_initialize_opens_one_for_the_loop_and_shutdown_closes_it():
    with virtual_gpus("2x8GiB"):
        runtime = await asyncgpu.initialize(1)
        assert asyncgpu.current_runtime() is runtime
        with pytest.raises(RequestError, match="open on this event loop already"):
            await asyncgpu.initialize()
        ctx = await asyncgpu.create_context("a")
        assert ctx.device == "cuda:1"
        await asyncgpu.shutdown()
        await asyncgpu.shutdown()
        with pytest.raises(NoRuntime):
            asyncgpu.current_runtime()


async def test_settings_are_read_when_it_opens(monkeypatch):
    runtime = Runtime()
    monkeypatch.setenv("ASYNCGPU_VIRTUAL_DEVICES", "3x1GiB")
    async with runtime:
        assert runtime.devices.managed == (0, 1, 2)


async def test_without_a_gpu_it_opens_and_asking_for_one_names_the_variable(monkeypatch):
    monkeypatch.delenv("ASYNCGPU_VIRTUAL_DEVICES", raising=False)
    async with Runtime() as runtime:
        if runtime.devices.managed:
            pytest.skip("this machine has a GPU")
        with pytest.raises(asyncgpu.InfeasibleRequest, match="ASYNCGPU_VIRTUAL_DEVICES"):
            async with runtime.lease("cuda"):
                pass
        with pytest.raises(asyncgpu.InfeasibleRequest, match="ASYNCGPU_VIRTUAL_DEVICES"):
            await runtime.create_context("a")


async def test_a_budget_above_what_a_device_has_is_clamped_with_a_warning(caplog):
    async with Runtime(settings=TWO, total_vram_budget="64GiB") as runtime:
        with pytest.raises(asyncgpu.InfeasibleRequest):
            await runtime.create_context("a", max_vram="9GiB", base_vram="9GiB")
    assert "clamped to 8 GiB" in caplog.text


async def test_a_budget_is_what_reservations_must_fit_in():
    async with Runtime(settings=TWO, total_vram_budget="1GiB") as runtime:
        await runtime.create_context("a", max_vram="1GiB", base_vram="1GiB")
        with pytest.raises(TimeoutError):
            await runtime.create_context("b", max_vram="1GiB", base_vram=1, timeout=0)


@pytest.mark.parametrize("device", ["cpu", "cudax2", "cuda:0,1", "gpu"])
def test_its_device_must_be_one_gpu(device):
    with pytest.raises(asyncgpu.InvalidDevice):
        Runtime(device=device)


async def test_a_device_that_is_not_there_is_named():
    with pytest.raises(asyncgpu.InfeasibleRequest, match="cuda:7"):
        await Runtime(settings=TWO, device="cuda:7").open()


async def test_contexts_are_made_found_listed_and_destroyed():
    async with Runtime(settings=TWO) as runtime:
        ctx = await asyncgpu.create_context(
            "llm", max_vram="4GiB", qos=asyncgpu.QoSPolicy.GUARANTEED
        )
        assert asyncgpu.get_context("llm") is ctx
        assert asyncgpu.list_contexts() == ["llm"]
        assert runtime.status().contexts == ("llm",)
        assert await asyncgpu.destroy_context("llm")
        assert not await asyncgpu.destroy_context("llm")
        assert asyncgpu.get_context("llm") is None


async def test_work_that_never_ends_does_not_keep_a_runtime_from_closing(caplog):
    settings = Settings(virtual_devices="1x8GiB", close_timeout=0.05)
    with gate() as held, anyio.fail_after(30):
        async with Runtime(settings=settings) as runtime:
            ctx = await runtime.create_context("stuck")
            held.hold(ctx)
            ctx.record_event()
    assert "stuck" in caplog.text


async def test_status_shows_devices_contexts_and_workers():
    async with Runtime(settings=TWO) as runtime:
        status = runtime.status()
    assert len(status.devices.devices) == 2
    assert status.workers == ()


async def test_after_a_fork_every_call_in_the_child_raises():
    async with Runtime(settings=TWO) as runtime:
        runtime.pid = os.getpid() + 1  # as a child of a fork finds it
        with pytest.raises(NoRuntime, match="before a fork"):
            asyncgpu.current_runtime()
        with pytest.raises(NoRuntime, match="before a fork"):
            await runtime.create_context("a")
        runtime.pid = os.getpid()


def run_script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"ASYNCGPU_VIRTUAL_DEVICES": "2x8GiB"},
        check=False,
    )


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_ends_with_the_runtime_open_ends_cleanly(backend, anyio_backend_name):
    if anyio_backend_name != backend:
        pytest.skip("once for each library is enough")
    done = run_script(
        f"""
        import anyio, asyncgpu
        async def main():
            await asyncgpu.initialize()
            print((await asyncgpu.get_tool(Where())).pid)
        class Where(asyncgpu.Tool):
            def run(self, items): return items
        anyio.run(main, backend={backend!r})
        """
    )
    assert done.stderr == ""
    assert done.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_a_program_without_a_loop_uses_the_blocking_form(anyio_backend_name):
    if anyio_backend_name == "trio":
        pytest.skip("the form has a loop of its own")
    done = run_script(
        """
        import asyncgpu
        from asyncgpu import ToolPool, blocking_runtime, context_session
        class Square(asyncgpu.Tool):
            def run(self, items): return [i * i for i in items]
        with blocking_runtime() as rt:
            ctx = rt.create_context("a")
            with context_session(ctx):
                assert asyncgpu.current_context() is ctx
            asked = []
            rt.on_memory_pressure(lambda *asks: asked.append(asks) or True)
            with rt.enter(ctx.reserve("1GiB")):
                assert rt.available_vram() == 7 << 30 and not asked
            with rt.enter(ToolPool()) as pool:
                print(rt.call(pool.run, Square(), [1, 2, 3]))
            with rt.lease("cuda") as lease:
                print(lease.device)
            print(rt.destroy_context("a"), rt.contexts(), len(rt.status().devices.devices))
        """
    )
    assert done.stderr == ""
    assert done.stdout.split("\n")[:3] == ["[1, 4, 9]", "cuda:1", "True [] 2"]
