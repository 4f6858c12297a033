//! `wasi:sockets/ip-name-lookup` by our own look-up of names, instead of the machine's, which takes
//! a thread for each name.

use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::task::{Context, Poll, Waker};
use std::vec;

use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, ResourceType};
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{WasiView as _, async_trait};

use super::Host;
use crate::BoxFuture;
use crate::network::names::{NameError, resolve};

/// As WASI's own is called, whose place this takes.
const INTERFACE: &str = "wasi:sockets/ip-name-lookup@0.2.12";

/// A look-up, and what is left of its answer.
enum Lookup {
    Pending(BoxFuture<'static, Result<Vec<Ipv4Addr>, ErrorCode>>),
    Done(Result<vec::IntoIter<Ipv4Addr>, ErrorCode>),
}

impl Lookup {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<&mut Result<vec::IntoIter<Ipv4Addr>, ErrorCode>> {
        if let Lookup::Pending(answer) = self {
            let Poll::Ready(answer) = answer.as_mut().poll(context) else {
                return Poll::Pending;
            };
            *self = Lookup::Done(answer.map(Vec::into_iter));
        }
        match self {
            Lookup::Done(answer) => Poll::Ready(answer),
            Lookup::Pending(_) => Poll::Pending,
        }
    }
}

#[async_trait]
impl Pollable for Lookup {
    async fn ready(&mut self) {
        poll_fn(|context| self.poll(context).map(drop)).await;
    }
}

type Answer<T> = wasmtime::Result<(Result<T, ErrorCode>,)>;

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    let mut names = linker.instance(INTERFACE)?;
    let stream = ResourceType::host::<Lookup>();
    names.resource("resolve-address-stream", stream, |mut store, number| {
        let table = store.data_mut().ctx().table;
        table.delete(Resource::<Lookup>::new_own(number))?;
        Ok(())
    })?;
    names.func_wrap("resolve-addresses", begin)?;
    names.func_wrap("[method]resolve-address-stream.resolve-next-address", next)?;
    names.func_wrap("[method]resolve-address-stream.subscribe", wait)
}

fn begin(
    mut store: StoreContextMut<'_, Host>,
    (network, name): (Resource<Network>, String),
) -> Answer<Resource<Lookup>> {
    let (own, table) = store.data_mut().network_and_table();
    // Whoever has this may ask.
    table.get(&network)?;
    let reach = &own.reach;
    let Some(connection) = reach.connection() else {
        return Ok((Err(ErrorCode::TemporaryResolverFailure),));
    };
    let mut lookup = Lookup::Pending(Box::pin(async move {
        let found = resolve(&connection.0.access, &name).await;
        found.map_err(code)
    }));
    // The question is on its way when this returns; what needs none is answered.
    let mut context = Context::from_waker(Waker::noop());
    if let Poll::Ready(Err(error)) = lookup.poll(&mut context) {
        return Ok((Err(*error),));
    }
    Ok((Ok(table.push(lookup)?),))
}

fn next(
    mut store: StoreContextMut<'_, Host>,
    (lookup,): (Resource<Lookup>,),
) -> Answer<Option<IpAddress>> {
    let lookup = store.data_mut().ctx().table.get_mut(&lookup)?;
    let mut context = Context::from_waker(Waker::noop());
    let answer = match lookup.poll(&mut context) {
        Poll::Pending => Err(ErrorCode::WouldBlock),
        Poll::Ready(Err(error)) => Err(*error),
        Poll::Ready(Ok(addresses)) => Ok(addresses.next().map(|address| {
            let [a, b, c, d] = address.octets();
            IpAddress::Ipv4((a, b, c, d))
        })),
    };
    Ok((answer,))
}

fn wait(
    mut store: StoreContextMut<'_, Host>,
    (lookup,): (Resource<Lookup>,),
) -> wasmtime::Result<(Resource<DynPollable>,)> {
    Ok((subscribe(store.data_mut().ctx().table, lookup)?,))
}

fn code(error: NameError) -> ErrorCode {
    match error {
        NameError::Denied => ErrorCode::AccessDenied,
        NameError::Invalid => ErrorCode::InvalidArgument,
        NameError::Unknown => ErrorCode::NameUnresolvable,
        NameError::Unanswered => ErrorCode::TemporaryResolverFailure,
    }
}
