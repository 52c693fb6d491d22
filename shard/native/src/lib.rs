//! The matching engine of a shard, and its Python class.
//!
//! `engine::Engine` is the whole of it: journal records in, outcomes out, no clock, no chance, no floats. Only this file
//! knows Python; without the feature `python` the crate is a plain library (for tests and examples).

#![deny(unsafe_code)]

mod accounts;
mod amending;
pub mod book;
pub mod command;
pub mod domain;
pub mod engine;
mod events;
mod hash;
mod index;
mod instrument;
mod memory;
pub mod pool;
mod record;
mod restore;
#[cfg(any(feature = "python", test))]
mod sealed;
mod serving;
mod snapshot;
mod text;
mod trading;
mod window;
mod wire;

#[cfg(feature = "python")]
mod python {
    use pyo3::exceptions::{PyRuntimeError, PyValueError};
    use pyo3::prelude::*;
    use pyo3::types::PyBytes;

    use crate::command;
    use crate::engine::{Config, Engine};
    use crate::sealed::Sealed;
    use crate::wire::Fault;

    fn refusal(fault: Fault) -> PyErr {
        PyValueError::new_err(fault.into_sentence())
    }

    fn poisoned() -> PyErr {
        PyRuntimeError::new_err("engine: stopped by an internal fault in an earlier call; restart the process")
    }

    /// One shard's matching state; see docs/PROTOCOL.md, section 1.
    #[pyclass(name = "Engine", module = "shard._matching")]
    struct PyEngine {
        sealed: Sealed<Engine>,
    }

    impl PyEngine {
        fn look(&self) -> PyResult<&Engine> {
            self.sealed.look().ok_or_else(poisoned)
        }
    }

    #[pymethods]
    impl PyEngine {
        #[new]
        fn new(config: &[u8]) -> PyResult<Self> {
            let config = Config::read(config).map_err(|fault| refusal(fault.about("engine config")))?;
            Ok(Self { sealed: Sealed::new(Engine::new(config)) })
        }

        fn admit(&self, payload: &[u8], allowed: u64) -> PyResult<usize> {
            command::admit(payload, allowed).map_err(refusal)
        }

        fn apply<'py>(&mut self, py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
            let outcome = self.sealed.change(|engine| engine.apply(record)).ok_or_else(poisoned)?;
            Ok(PyBytes::new(py, outcome.map_err(refusal)?))
        }

        fn snapshot<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
            Ok(PyBytes::new(py, &self.look()?.snapshot()))
        }

        fn restore(&mut self, snapshot: &[u8]) -> PyResult<()> {
            let restored = Engine::restore(self.look()?.config(), snapshot).map_err(refusal)?;
            self.sealed = Sealed::new(restored);
            Ok(())
        }

        fn digest(&self) -> PyResult<u64> {
            Ok(self.look()?.digest())
        }

        fn trail(&self) -> PyResult<u32> {
            Ok(self.look()?.trail())
        }

        fn image<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
            Ok(PyBytes::new(py, &self.look()?.image()))
        }

        fn book<'py>(&self, py: Python<'py>, instrument: i64) -> PyResult<Bound<'py, PyBytes>> {
            Ok(PyBytes::new(py, &self.look()?.book(instrument).map_err(refusal)?))
        }

        fn seq(&self) -> PyResult<i64> {
            Ok(self.look()?.at().seq)
        }

        fn epoch(&self) -> PyResult<i64> {
            Ok(self.look()?.at().epoch)
        }

        fn ts(&self) -> PyResult<i64> {
            Ok(self.look()?.at().ts_ns)
        }

        fn orders(&self) -> PyResult<usize> {
            Ok(self.look()?.open_orders())
        }
    }

    #[pymodule]
    fn _matching(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add_class::<PyEngine>()
    }
}
