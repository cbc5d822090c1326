// Command kubernetes is Kubernetes in one file: the programs below, each exactly the main function
// that its own module publishes, chosen by the name this file is called by or by its first
// argument. One file shares the packages that the programs have in common, which makes it a third
// of the size of the separate programs and lets one build serve all of them.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	_ "time/tzdata" // CronJobs with a time zone, as in upstream's kube-apiserver and kube-controller-manager

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

type program struct {
	name string
	main func()
}

var programs = []program{
	{"etcd", func() { etcdmain.Main(os.Args) }},
	{"kube-apiserver", func() { run(apiserver.NewAPIServerCommand()) }},
	{"kube-controller-manager", func() { run(controllermanager.NewControllerManagerCommand()) }},
	{"kube-scheduler", func() { run(scheduler.NewSchedulerCommand()) }},
	{"kube-proxy", func() { run(proxy.NewProxyCommand()) }},
	{"kubelet", func() { run(kubelet.NewKubeletCommand(context.Background())) }},
	{"kubectl", kubectl},
}

func main() {
	if call(filepath.Base(os.Args[0])) {
		return
	}
	if len(os.Args) > 1 {
		// The programs read os.Args themselves, and print its first element as their name.
		name := os.Args[1]
		os.Args = slices.Delete(os.Args, 0, 1)
		if call(name) {
			return
		}
		fmt.Fprintf(os.Stderr, "kubernetes: no program %q in this file; there are:", name)
	} else {
		fmt.Fprint(os.Stderr, "usage: kubernetes PROGRAM [ARGUMENT…], or a link to it named after a PROGRAM:")
	}
	for _, p := range programs {
		fmt.Fprintf(os.Stderr, " %s", p.name)
	}
	fmt.Fprintln(os.Stderr)
	os.Exit(64)
}

// call runs the program of that name; false when there is none.
func call(name string) bool {
	i := slices.IndexFunc(programs, func(p program) bool { return p.name == name })
	if i < 0 {
		return false
	}
	programs[i].main()
	return true
}

func run(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

// kubectl is upstream's main function: the verbosity has to be known before the command is made,
// because plugins and preferences are read while it is.
func kubectl() {
	logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) //nolint:errcheck // upstream's line: a bad level is reported by the flag's own parser later
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err)
	}
}
