//! Opening sockets, of which a sandbox may have so many at once. What they do is WASI's own.

use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddressFamily};
use wasmtime_wasi::p2::bindings::sockets::{tcp_create_socket, udp_create_socket};
use wasmtime_wasi::p2::{SocketError, SocketResult, TcpSocket, UdpSocket};
use wasmtime_wasi::sockets::WasiSocketsView as _;

use super::{Host, Network};

pub(super) fn add_to_linker(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    tcp_create_socket::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)?;
    udp_create_socket::add_to_linker::<_, HasSelf<Host>>(linker, |host| host)
}

impl tcp_create_socket::Host for Host {
    fn create_tcp_socket(&mut self, family: IpAddressFamily) -> SocketResult<Resource<TcpSocket>> {
        self.one_more_socket()?;
        tcp_create_socket::Host::create_tcp_socket(&mut self.sockets(), family)
    }
}

impl udp_create_socket::Host for Host {
    async fn create_udp_socket(
        &mut self,
        family: IpAddressFamily,
    ) -> SocketResult<Resource<UdpSocket>> {
        self.one_more_socket()?;
        udp_create_socket::Host::create_udp_socket(&mut self.sockets(), family).await
    }
}

/// As WASI has it: the interfaces above use this one's types.
impl network::Host for Host {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.sockets(), error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.sockets(), error)
    }
}

impl network::HostNetwork for Host {
    fn drop(&mut self, network: Resource<network::Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.sockets(), network)
    }
}

impl Host {
    fn one_more_socket(&mut self) -> SocketResult<()> {
        let (network, table) = self.network_and_table();
        match network.one_more_socket(table) {
            true => Ok(()),
            false => Err(ErrorCode::NewSocketLimit.into()),
        }
    }
}

impl Network {
    /// Whether there may be one more. Nothing tells when a socket is closed, so those in the table
    /// are counted; it has no more entries than one look takes no time for. A socket stays in there
    /// for as long as its streams do.
    fn one_more_socket(&mut self, table: &mut ResourceTable) -> bool {
        let is_socket = |entry: &&mut (dyn std::any::Any + Send)| {
            entry.is::<TcpSocket>() || entry.is::<UdpSocket>()
        };
        let open = table.iter_mut().filter(is_socket).count();
        self.sockets.truncate(open);
        let connection = self.reach.connection();
        let granted = connection.is_some();
        self.sockets.extend(connection);
        granted
    }
}
